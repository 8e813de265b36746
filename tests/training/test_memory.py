"""What training does with the memory of the C library, each time in a process of its own."""

import platform

import pytest

from tests.forks import Forks

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")

FETCHED = """
import resource
import torch
from cnnarch.training.memory import memory_kept

SIZE = 64 * 2**20
PAGES = SIZE // resource.getpagesize()

def pages_fetched(size=SIZE, times=10):
    '''Pages that the system gives for a tensor of `size` bytes, made and freed again and again.'''
    pages = []
    for _ in range(times):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.full((size,), 1, dtype=torch.uint8)
        pages.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return pages
"""


def run(forks: Forks, code: str) -> None:
    (done,) = forks.run(FETCHED + code)
    assert done.status == 0, done.err


def test_pages_of_a_freed_tensor_serve_the_next(forks: Forks) -> None:
    run(
        forks,
        """
assert min(pages_fetched()) >= PAGES
with memory_kept():
    assert pages_fetched()[-1] < PAGES / 2
""",
    )


def test_memory_goes_back_to_the_system_even_after_an_error(forks: Forks) -> None:
    run(
        forks,
        """
def resident():
    return int(open("/proc/self/statm").read().split()[1])

before = resident()
try:
    with memory_kept():
        pages_fetched()
        assert resident() - before >= PAGES
        raise KeyError
except KeyError:
    pass
assert resident() - before < PAGES / 2
# Larger than any piece of the heap that became free meanwhile, which glibc would take first.
assert min(pages_fetched(8 * SIZE, times=2)) >= 8 * PAGES
""",
    )

"""Memory allocation by the C library during training; each test runs in its own process."""

import platform

import pytest

from tests.forks import Forks

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")

PAGE_FAULTS = """
import resource
import torch

SIZE = 64 * 2**20
PAGES = SIZE // resource.getpagesize()

def page_faults(times=10):
    '''Return the number of page faults for each allocation of a tensor that is then freed.'''
    faults = []
    for _ in range(times):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.full((SIZE,), 1, dtype=torch.uint8)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return faults
"""


def run(forks: Forks, code: str) -> None:
    (done,) = forks.run(PAGE_FAULTS + code)
    assert done.status == 0, done.err


def test_the_pages_of_a_freed_tensor_are_reused(forks: Forks) -> None:
    run(
        forks,
        """
from cnnarch.training.machine import keep_freed_memory
assert min(page_faults()) >= PAGES
keep_freed_memory()
assert page_faults()[-1] < PAGES / 2
""",
    )


TRAIN = """
import tempfile
from cnnarch.training import Recipe, fit, load_data
import cnnarch
from cnnarch.cli import main
words = ["train", "lenet5", "--num_steps", "1", "--output", tempfile.mkdtemp() + "/run"]
"""


@pytest.mark.parametrize(
    ("call", "kept"),
    [
        ("main(words)", True),
        ("fit(cnnarch.lenet5(in_channels=3), load_data('synthetic'), Recipe(num_steps=1))", False),
    ],
    ids=["command", "fit"],
)
def test_only_the_command_line_changes_allocator_settings(
    forks: Forks, call: str, kept: bool
) -> None:
    run(forks, f"{TRAIN}\n{call}\nassert (page_faults()[-1] < PAGES / 2) is {kept}")

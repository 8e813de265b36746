"""What training does with the memory of the C library."""

import platform

import pytest
import torch

from cnnarch.training.memory import memory_kept

resource = pytest.importorskip("resource")  # not on Windows
SIZE = 64 * 2**20
PAGES = SIZE // resource.getpagesize()

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")


def pages_fetched() -> list[int]:
    """Pages that the system gives for a tensor of 64 MiB, made and freed again and again."""
    pages = []
    for _ in range(10):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.full((SIZE,), 1, dtype=torch.uint8)
        pages.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return pages


def test_pages_of_a_freed_tensor_serve_the_next() -> None:
    assert min(pages_fetched()) >= PAGES
    with memory_kept():
        assert pages_fetched()[-1] < PAGES / 2
    assert min(pages_fetched()[1:]) >= PAGES


def test_memory_goes_back_to_the_system_after_an_error() -> None:
    with pytest.raises(KeyError), memory_kept():
        raise KeyError
    assert min(pages_fetched()[1:]) >= PAGES

"""Memory of the C library: keep what a training step gives back for the next one."""

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["memory_kept"]

# Parameters of glibc's mallopt, from malloc.h, and what it begins with.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
NEVER = -1  # the largest threshold
DEFAULT_MMAP_MAX = 65_536
LARGEST_MMAP_THRESHOLD = 32 * 2**20  # where glibc's own, which adapts to what is freed, ends


@contextmanager
def memory_kept() -> Iterator[None]:
    """Let glibc keep freed memory; back to the system with it after.

    Every step asks for the same large tensors. glibc gives those above 32 MiB back to the
    system as they are freed, and every page of the next one is fetched, and filled with zeros,
    anew: about a fifth of the time of a step on a processor. Other C libraries (macOS, Windows,
    musl) are left alone.

    Source: the manual page mallopt(3).
    """
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, NEVER)
    try:
        yield
    finally:
        libc.mallopt(M_MMAP_MAX, DEFAULT_MMAP_MAX)
        libc.mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)
        libc.mallopt(M_TRIM_THRESHOLD, 2 * LARGEST_MMAP_THRESHOLD)  # as glibc itself doubles it
        libc.malloc_trim(0)

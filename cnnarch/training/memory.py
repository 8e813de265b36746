"""Memory of the C library: keep what a training step frees for the next step."""

import ctypes
import platform

__all__ = ["keep_freed_memory"]

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # parameters of glibc's mallopt, from malloc.h
NEVER = -1


def keep_freed_memory() -> None:
    """Stop glibc from returning freed memory to the system, until the process ends.

    Every training step allocates the same large tensors. By default glibc returns blocks above
    32 MiB to the system when they are freed, and the kernel has to map and zero each page again
    in the next step. That costs about a fifth of a step on a CPU. Other C libraries (macOS,
    Windows, musl) are not changed. The setting applies to the whole process, so the command line
    calls this function and `fit` and `train` do not.

    Source: the manual page mallopt(3).
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, NEVER)

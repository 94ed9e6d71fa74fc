"""The C library's memory: what a tensor frees goes back to the system at once.

Left alone, glibc keeps freed blocks of up to 32 MB for later, in pieces that the next tensors do
not always fit into, so that a process can hold half as much again as it needs. Blocks above the
threshold are mapped on their own instead; with large pages that costs little time.
"""

import ctypes
import sys

_M_MMAP_THRESHOLD = -3
"""glibc's name for it in <malloc.h>."""
OWN_PAGES = 4 << 20
"""Bytes from which on a tensor has pages of its own."""


def return_freed_memory() -> None:
    """Have every block of OWN_PAGES or more returned when it is freed, where there is glibc."""
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none, and needs none
        if mallopt is not None:
            mallopt(_M_MMAP_THRESHOLD, OWN_PAGES)

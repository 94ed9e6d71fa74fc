"""The C library's memory: whether what a tensor frees goes back to the system at once.

Returned memory has to be mapped and cleared again for the next tensor, which takes a third of a
training step; kept memory lies in pieces that the next tensors do not always fit into, so that a
process can hold up to three times what it needs (docs/memory.md). So it is kept where there is
plenty. Blocks above glibc's threshold are mapped on their own, and returned.
"""

import ctypes
import sys

_M_MMAP_THRESHOLD = -3
_M_TRIM_THRESHOLD = -1
"""glibc's names for them in <malloc.h>."""
OWN_PAGES = 4 << 20
"""Bytes from which on a tensor has pages of its own where freed memory is returned."""
_LARGEST_KEPT = 1 << 30
"""Bytes up to which a freed tensor is kept, where it is."""
_NO_SIZE = -1
_LARGEST_FREE_END = 128 << 10
"""Bytes that may lie free at the heap's end before they are returned: never, and by default."""
_KEPT_TIMES = 3


def most_with_freed(planned: int) -> int:
    """The most bytes that a process of ``planned`` bytes holds when it keeps what is freed."""
    return _KEPT_TIMES * planned


def is_plenty(planned: int, available: int) -> bool:
    """Whether a process of ``planned`` bytes may keep what is freed: it takes at most half."""
    return most_with_freed(planned) <= available // 2


def keep_freed_memory() -> None:
    """Have blocks of up to 1 GB kept for the next ones when they are freed."""
    _set_thresholds(own_pages=_LARGEST_KEPT, free_end=_NO_SIZE)


def return_freed_memory() -> None:
    """Have every block of OWN_PAGES or more returned when it is freed, where there is glibc."""
    _set_thresholds(own_pages=OWN_PAGES, free_end=_LARGEST_FREE_END)


def _set_thresholds(*, own_pages: int, free_end: int) -> None:
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none, and needs none
        if mallopt is not None:
            mallopt(_M_MMAP_THRESHOLD, own_pages)
            mallopt(_M_TRIM_THRESHOLD, free_end)

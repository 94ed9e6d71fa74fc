"""Freed memory leaves the process, whatever lies beside it in the heap, or all of it stays."""

import subprocess
import sys

import pytest

from reformer.training.allocator import is_plenty

_PROGRAM = """
import sys
from pathlib import Path
from reformer.training.allocator import keep_freed_memory, return_freed_memory

for mode in sys.argv[1:]:
    {"kept": keep_freed_memory, "returned": return_freed_memory}[mode]()
blocks, pins = [], []
for _ in range(20):
    for size in (14 << 20, 2 << 20):  # with pages of its own, and without, if memory is returned
        blocks.append(bytearray(size))
        blocks[-1][::4096] = b"x" * (size >> 12)  # every page is in use
    pins.append(bytearray(100_000))
for held in (blocks, pins):
    held.clear()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    print(pages * 4096)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_what_is_freed_goes_back_to_the_system() -> None:
    def resident(*modes: str) -> list[int]:
        command = [sys.executable, "-c", _PROGRAM, *modes]
        ran = subprocess.run(command, capture_output=True, check=True, text=True)
        return [int(line) for line in ran.stdout.split()]

    # With neighbours in use, and when the end of the heap is free as well.
    assert min(resident("kept")) > 300 << 20
    for modes in (("returned",), ("kept", "returned")):
        beside_others, alone = resident(*modes)
        assert beside_others < 80 << 20
        assert alone < 35 << 20


def test_memory_is_kept_only_where_it_takes_at_most_half_of_what_there_is() -> None:
    assert is_plenty(4 << 30, 24 << 30)
    assert not is_plenty((4 << 30) + 1, 24 << 30)

"""Timing by turns, and peak memory of one call."""

import ctypes
import gc
import os
import platform
import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

Work = Callable[[], object]
Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True)
class Measured:
    """Median seconds of a turn, and the most memory that the first one added."""

    seconds: float
    peak_extra_bytes: int | None


def measure_by_turns(
    works: Mapping[Name, Work], *, num_repeats: int, most_seconds: float
) -> dict[Name, Measured]:
    """Time and memory of each, all taking turns so that a noisy moment hits every one.

    The first turn is for memory; its time counts only if it is longer than ``most_seconds``,
    and then there are no others.
    """
    first = {name: _first_turn(work) for name, work in works.items()}
    times: dict[Name, list[float]] = {name: [] for name in works}
    for _ in range(num_repeats):
        for name, work in works.items():
            if first[name].seconds <= most_seconds:
                times[name].append(_seconds(work))
    return {
        name: Measured(statistics.median(times[name] or [one.seconds]), one.peak_extra_bytes)
        for name, one in first.items()
    }


def time_by_turns(
    works: Mapping[Name, Work], *, num_repeats: int, most_seconds: float
) -> dict[Name, float]:
    """The seconds of ``measure_by_turns``."""
    measured = measure_by_turns(works, num_repeats=num_repeats, most_seconds=most_seconds)
    return {name: one.seconds for name, one in measured.items()}


def _first_turn(work: Work) -> Measured:
    seconds: list[float] = []
    peak = peak_extra_bytes(lambda: seconds.append(_seconds(work)))
    return Measured(seconds[0] if seconds else _seconds(work), peak)


def _seconds(work: Work) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def matmul_rate(size: int = 4096, num_repeats: int = 3) -> float:
    """Arithmetic rate of a large float32 matrix product, in floating-point operations a second."""
    draws = torch.Generator().manual_seed(0)
    left, right = (torch.randn(size, size, generator=draws) for _ in range(2))
    seconds = time_by_turns({"mm": lambda: left @ right}, num_repeats=num_repeats, most_seconds=60)
    return 2.0 * size**3 / seconds["mm"]


def peak_extra_bytes(work: Work) -> int | None:
    """Most resident memory that ``work`` adds while it runs; None where Linux cannot tell."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not reset.exists():
        return None
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = _status_bytes(status, "VmRSS")
    reset.write_text("5")
    work()
    peak = _status_bytes(status, "VmHWM")
    return max(0, peak - before)


def _status_bytes(path: Path, field: str) -> int:
    for line in path.read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"{path} has no {field}")


def machine() -> dict[str, object]:
    """What this ran on."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": str(torch.__version__),
    }


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"

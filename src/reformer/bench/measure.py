"""Timing by turns, and peak memory of one call."""

import ctypes
import gc
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

Work = Callable[[], object]


def time_by_turns(
    works: Mapping[str, Work], *, num_repeats: int, most_seconds: float
) -> dict[str, float]:
    """Median seconds of each, all taking turns so that a noisy moment hits every one.

    One untimed turn comes first. Who needs longer than ``most_seconds`` for a turn has that
    one turn only.
    """
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(num_repeats + 1):
        for name, work in works.items():
            if times[name] and times[name][0] > most_seconds:
                continue
            started = time.perf_counter()
            work()
            seconds = time.perf_counter() - started
            if turn > 0 or seconds > most_seconds:
                times[name].append(seconds)
    return {name: statistics.median(values) for name, values in times.items()}


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
    result = work()
    peak = _status_bytes(status, "VmHWM")
    del result
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

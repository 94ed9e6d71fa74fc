"""What a run records as it goes: metrics.jsonl, one line a step, and TensorBoard events."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reformer import durable
from reformer.training.events import EventsFile


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics file; a last line that a crash cut short is left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return [row for row in rows if isinstance(row, dict) and isinstance(row.get("step"), int)]


def training_unit(row: Mapping[str, Any]) -> str:
    """What the row's training loss is in, such as ``bits_per_byte``."""
    return next(name for name in row if name.startswith("train_")).removeprefix("train_")


class MetricsWriter:
    """Appends rows; on opening it drops those of steps that will be done again."""

    def __init__(self, path: Path, tensorboard: Path, last_step: int) -> None:
        kept = [row for row in read_metrics(path) if row["step"] <= last_step]
        durable.write_text(path, "".join(_line(row) for row in kept))
        self.last_step = kept[-1]["step"] if kept else 0
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - closed by close()
        self._events = _open_events(tensorboard, last_step)

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one row; ``step`` names it, the other values are numbers."""
        self._file.write(_line(row))
        self._file.flush()
        if self._events is not None:
            scalars = {name: value for name, value in row.items() if name != "step"}
            self._events.write(row["step"], scalars)

    def close(self) -> None:
        """Flush and close the files."""
        self._file.close()
        if self._events is not None:
            self._events.close()


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(dict(row), allow_nan=False) + "\n"


def _open_events(folder: Path, last_step: int) -> EventsFile | None:
    """A file of events, or None where the tensorboard package is not installed."""
    try:
        return EventsFile(folder, last_step)
    except ImportError:
        return None

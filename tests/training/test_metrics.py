"""metrics.jsonl goes on where the checkpoint left off, whatever a crash left in it."""

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from reformer.training.metrics import MetricsWriter, read_metrics


def _write(folder: Path, last_step: int, steps: range) -> None:
    writer = MetricsWriter(folder / "metrics.jsonl", folder / "tensorboard", last_step)
    for step in steps:
        writer.write({"step": step, "train_bits_per_byte": float(step)})
    writer.close()


def test_rows_after_the_checkpoint_are_written_once(tmp_path: Path) -> None:
    _write(tmp_path, 0, range(1, 8))
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 8, "tra')
    _write(tmp_path, 5, range(6, 10))
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, 10))
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [e.step for e in events.Scalars("train_bits_per_byte")] == list(range(1, 10))


def test_numbers_that_are_none_never_enter(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path / "metrics.jsonl", tmp_path / "tensorboard", 0)
    with pytest.raises(ValueError, match="JSON"):
        writer.write({"step": 1, "train_bits_per_byte": float("nan")})
    writer.close()


def test_no_file_is_no_rows(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "missing.jsonl") == []

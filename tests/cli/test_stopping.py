"""Real processes, stopped and killed: what was saved goes on as if nothing had happened."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reformer.training.metrics import read_metrics
from tests.cli.conftest import TINY

STEPS = 24
SETTINGS = ("--steps", str(STEPS), "--save-every", "5", "--evaluate-every", "10")
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}


def _start(book: Path, out: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "reformer", "train", str(book), "--out", str(out), *words]
    # A new session: the signals that this test sends reach the command alone.
    return subprocess.Popen(
        command, env=ENVIRONMENT, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def _finish(process: subprocess.Popen[str]) -> None:
    output = process.communicate()[0]
    assert process.returncode == 0, output


def _wait_for_step(run: Path, step: int, process: subprocess.Popen[str]) -> None:
    while len(read_metrics(run / "metrics.jsonl")) < step:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, book: Path) -> Path:
    """The run that nothing disturbs."""
    run = tmp_path_factory.mktemp("straight") / "run"
    _finish(_start(book, run, *TINY, *SETTINGS))
    return run


def _final(run: Path) -> list[bytes]:
    folder = run / "checkpoints" / f"step-{STEPS:06d}"
    names = ("model.safetensors", "optimizer.safetensors", "state.json")
    return [(run / "model.safetensors").read_bytes(), *((folder / n).read_bytes() for n in names)]


def test_a_run_that_is_stopped_and_killed_ends_as_if_it_had_not(
    tmp_path: Path, book: Path, straight: Path
) -> None:
    run = tmp_path / "run"
    words: tuple[str, ...] = (*TINY, *SETTINGS)
    for step, number, code in (
        (3, signal.SIGKILL, -signal.SIGKILL),
        (6, signal.SIGINT, 130),
        (12, signal.SIGTERM, 143),
    ):
        process = _start(book, run, *words)
        _wait_for_step(run, step, process)
        process.send_signal(number)
        output = process.communicate()[0]
        assert process.returncode == code, output
        assert code < 0 or f"reformer train --out {run} --resume" in output
        words = ("--resume",)
    _finish(_start(book, run, "--resume"))
    assert _final(run) == _final(straight)
    assert [row["step"] for row in read_metrics(run / "metrics.jsonl")] == list(range(1, STEPS + 1))

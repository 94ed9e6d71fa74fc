"""Two processes never work on one run, and a dead one is in nobody's way."""

import signal
import time
from pathlib import Path

import pytest

from reformer.training.lock import LOCK_FILE, locked
from reformer.training.metrics import read_metrics
from reformer.training.run import RunError
from tests.trust.children import Child, command, training
from tests.trust.conftest import new_run, outcome

pytestmark = pytest.mark.usefixtures("server")


def _under_way(run: Path, child: Child) -> None:
    while len(read_metrics(run / "metrics.jsonl")) < 2:
        assert child.is_alive(), child.text()
        time.sleep(0.01)


def test_a_run_that_is_being_trained_is_left_alone(tmp_path: Path, pages: Path) -> None:
    new_run(tmp_path / "straight", pages)
    assert training(tmp_path / "straight", tmp_path / "output").wait() == 0
    run = new_run(tmp_path / "run", pages).path
    first = training(run, tmp_path / "first")
    _under_way(run, first)
    first.send(signal.SIGSTOP)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    second = command(["train", "--preset", "test", "--resume", "--out", run], tmp_path / "second")
    assert second.wait() == 2
    assert second.text() == (
        f"reformer: another process ({first.pid}) is training {run}: stop it first, or wait for "
        "its end\n"
    )
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    first.send(signal.SIGCONT)
    assert first.wait() == 0, first.text()
    assert outcome(run) == outcome(tmp_path / "straight")


def test_the_lock_ends_with_its_process(tmp_path: Path, pages: Path) -> None:
    run = new_run(tmp_path / "run", pages).path
    child = training(run, tmp_path / "output")
    _under_way(run, child)
    with pytest.raises(RunError, match=rf"another process \({child.pid}\)"), locked(run):
        pass
    child.send(signal.SIGKILL)
    child.wait()
    assert (run / LOCK_FILE).exists()
    with locked(run):
        pass


def test_of_two_new_runs_in_one_folder_one_is_made(tmp_path: Path, pages: Path) -> None:
    """Whoever comes second is told, and nothing of the first is touched."""
    words = ["train", pages, "--preset", "tiny", "--length", 32, "--steps", 1, "--out"]
    for trial in range(3):
        run = tmp_path / str(trial)
        children = [command([*words, run], tmp_path / f"{trial}-{n}") for n in range(2)]
        codes = sorted(child.wait() for child in children)
        assert codes == [0, 2], [child.text() for child in children]
        assert (run / "model.safetensors").exists()
    assert not list(tmp_path.glob(".*"))

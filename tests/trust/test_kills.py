"""kill -9 at any instant loses no step that was saved, and changes nothing that follows."""

import os
import random
import shutil
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from reformer.training.checkpoint import Checkpoint, load_latest
from reformer.training.metrics import read_metrics
from tests.trust.children import training
from tests.trust.conftest import new_run, outcome
from tests.trust.tiers import record, tiers

pytestmark = pytest.mark.usefixtures("server")


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, pages: Path) -> tuple[dict[str, Any], float]:
    """What the undisturbed run leaves, and the seconds that it took."""
    folder = tmp_path_factory.mktemp("straight")
    new_run(folder / "run", pages)
    started = time.monotonic()
    child = training(folder / "run", folder / "output")
    assert child.wait() == 0, child.text()
    return outcome(folder / "run"), time.monotonic() - started


def _saved(run: Path) -> Checkpoint | None:
    """The newest checkpoint; all of them must be whole, and none may be older than promised.

    A row of metrics is written before the checkpoint of its step, so the one before it is there.
    """
    complaints: list[str] = []
    checkpoint = load_latest(run / "checkpoints", complaints.append)
    assert not [c for c in complaints if "does not name" not in c]
    rows = read_metrics(run / "metrics.jsonl")
    assert (checkpoint.step if checkpoint else 0) >= (rows[-1]["step"] if rows else 0) - 1
    return checkpoint


@tiers(small=4, middle=30, full=200)
def test_a_killed_run_goes_on_as_if_it_had_not_been(
    scratch: Path, pages: Path, straight: tuple[dict[str, Any], float], count: int
) -> None:
    """Killed in its first half, it takes at least the next 20 steps as the straight run did."""
    expected, seconds = straight
    steps = []
    for trial in range(count):
        run = new_run(scratch / "run", pages).path
        child = training(run, scratch / "output")
        child.wait_until(random.Random(trial).uniform(0.0, seconds / 2))
        child.send(signal.SIGKILL)
        assert child.wait() in (0, -signal.SIGKILL)
        checkpoint = _saved(run)
        steps.append(checkpoint.step if checkpoint else 0)
        child = training(run, scratch / "output")
        assert child.wait() == 0, f"trial {trial}: {child.text()}"
        assert outcome(run) == expected, f"trial {trial}, killed after step {steps[-1]}"
        shutil.rmtree(run)
    record(
        "T1", "kill -9 at a random instant, saving every step", count,
        lost=0, resumed_bit_identical=count, killed_after_steps=[min(steps), max(steps)],
    )  # fmt: skip


@tiers(small=2, middle=10, full=12)
def test_a_run_killed_again_and_again_always_has_a_checkpoint(
    scratch: Path, pages: Path, straight: tuple[dict[str, Any], float], count: int
) -> None:
    """One checkpoint is kept. Whatever the kill hits, it or its successor is whole."""
    expected, seconds = straight
    kills = 0
    for trial in range(count):
        rng = random.Random(1000 + trial)
        run = new_run(scratch / "run", pages, keep_last=1).path
        code = -signal.SIGKILL
        for _ in range(12):
            child = training(run, scratch / "output")
            child.wait_until(rng.uniform(0.0, seconds / 2))
            child.send(signal.SIGKILL)
            code = child.wait()
            kills += code == -signal.SIGKILL
            _saved(run)
        child = training(run, scratch / "output")
        assert child.wait() == 0, f"trial {trial}: {child.text()}"
        assert outcome(run) == expected, f"trial {trial}"
        shutil.rmtree(run)
    record("T5", "runs that keep one checkpoint, killed up to 12 times each", count,
           kills=kills, without_a_whole_checkpoint=0)  # fmt: skip


NAMES = ("fsync", "rename", "replace", "mkdir", "rmdir", "unlink", "open", "close")


def _die_before_call(number: int) -> None:
    """The process kills itself before it asks the disk for the ``number``-th time."""
    left = number

    def counted(call: Any) -> Any:
        def die_when_due(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return die_when_due

    for name in NAMES:
        setattr(os, name, counted(getattr(os, name)))


@tiers(small=15, middle=150, full=2000)
def test_death_before_any_call_to_the_disk_is_survived(
    scratch: Path, pages: Path, count: int
) -> None:
    """Four steps, with best weights and deleted checkpoints: every call is hit in turn."""
    settings = {"steps": 4, "evaluate_every": 2, "keep_last": 1}
    new_run(scratch / "template", pages, **settings)
    calls = range(1, count + 1) if count > 1000 else range(1, 20 * count, 20)
    deaths = 0
    for number in calls:
        run = scratch / "run"
        shutil.copytree(scratch / "template", run)
        child = training(run, scratch / "output", partial(_die_before_call, number))
        code = child.wait()
        assert code in (0, -signal.SIGKILL), child.text()
        deaths += code != 0
        _saved(run)
        child = training(run, scratch / "output")
        assert child.wait() == 0, f"call {number}: {child.text()}"
        assert not list(run.glob("**/.*")), "something unfinished was left behind"
        shutil.rmtree(run)
        if code == 0:
            break
    assert deaths > count / 2 or code == 0
    record("T1", "kill -9 before each call to the disk", deaths, lost=0)

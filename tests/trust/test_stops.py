"""SIGINT and SIGTERM at any instant: everything done is saved, and a resumed run is the same."""

import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from reformer.training.checkpoint import load_latest
from reformer.training.metrics import read_metrics
from reformer.training.run import RUN_FILE
from tests.trust.children import command, training
from tests.trust.conftest import STEPS, new_run, outcome
from tests.trust.tiers import record, tiers

pytestmark = pytest.mark.usefixtures("server")

CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}
WORDS = (
    "--preset", "tiny", "--length", 32, "--batch-size", 2, "--hidden-size", 16, "--dropout", 0.1,
    "--feed-forward-size", 32, "--evaluate-tokens", 200, "--steps", STEPS, "--save-every", 9,
    "--evaluate-every", 5,
)  # fmt: skip
Straight = tuple[dict[str, Any], float]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory, pages: Path) -> Straight:
    """What the undisturbed command leaves, and the seconds that it took."""
    folder = tmp_path_factory.mktemp("straight")
    started = time.monotonic()
    child = command(["train", pages, *WORDS, "--out", folder / "run"], folder / "output")
    assert child.wait() == 0, child.text()
    return outcome(folder / "run"), time.monotonic() - started


def _nothing_done_is_lost(run: Path) -> None:
    rows = read_metrics(run / "metrics.jsonl")
    checkpoint = load_latest(run / "checkpoints", pytest.fail)
    assert (checkpoint.step if checkpoint else 0) >= (rows[-1]["step"] if rows else 0)


@tiers(small=3, middle=25, full=80)
def test_a_signal_at_any_instant_of_the_command(
    scratch: Path, pages: Path, straight: Straight, count: int
) -> None:
    """While it starts, tokenises, trains, validates, draws, saves or prints its sample."""
    expected, seconds = straight
    slowest, codes = 0.0, {0: 0, 130: 0, 143: 0}
    for trial in range(count):
        rng = random.Random(trial)
        run, number = scratch / "run", rng.choice(list(CODES))
        words = ["train", pages, *WORDS, "--out", run]
        child = command(words, scratch / "output")
        child.wait_until(rng.uniform(0.0, seconds))
        sent = time.monotonic()
        child.send(number)
        code = child.wait()
        slowest = max(slowest, time.monotonic() - sent)
        assert code in (0, CODES[number]), f"trial {trial}: {code}: {child.text()}"
        assert "Traceback" not in child.text(), f"trial {trial}: {child.text()}"
        codes[code] += 1
        if (run / RUN_FILE).exists():
            _nothing_done_is_lost(run)
            words = ["train", "--resume", "--out", run]
        child = command(words, scratch / "output")
        assert child.wait() == 0, f"trial {trial}: {child.text()}"
        assert outcome(run) == expected, f"trial {trial}"
        shutil.rmtree(run)
    record("T7", "SIGTERM or SIGINT at a random instant of the command", count,
           wrong_exit_codes=0, exit_codes=codes, slowest_exit_seconds=round(slowest, 2),
           resumed_bit_identical=count)  # fmt: skip


@tiers(small=2, middle=10, full=20)
def test_a_run_stopped_again_and_again_is_the_straight_run(
    scratch: Path, pages: Path, count: int
) -> None:
    new_run(scratch / "straight", pages)
    started = time.monotonic()
    assert training(scratch / "straight", scratch / "output").wait() == 0
    seconds = time.monotonic() - started
    expected, stops = outcome(scratch / "straight"), 0
    for trial in range(count):
        rng = random.Random(2000 + trial)
        run = new_run(scratch / "run", pages, save_every=rng.randint(1, 30)).path
        code = 1
        while code != 0:
            child = training(run, scratch / "output")
            child.wait_until(rng.uniform(0.0, seconds))
            child.send(rng.choice(list(CODES)))
            code = child.wait()
            assert code in (0, 130, 143, -signal.SIGTERM), f"trial {trial}: {child.text()}"
            stops += code != 0
            _nothing_done_is_lost(run)
        assert outcome(run) == expected, f"trial {trial}"
        shutil.rmtree(run)
    record("T2", "runs stopped and resumed at random instants until they end", count,
           stops=stops, equal_to_the_straight_run=count)  # fmt: skip


@tiers(small=1, middle=4, full=10)
def test_a_signal_while_python_itself_starts(scratch: Path, pages: Path, count: int) -> None:
    """Processes as a shell starts them: the imports may be hit as well."""
    for trial in range(count):
        rng = random.Random(trial)
        run, number = scratch / "run", rng.choice(list(CODES))
        line = [sys.executable, "-m", "reformer", "train", pages, *WORDS, "--out", run]
        process = subprocess.Popen(
            [str(word) for word in line], text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        # Not earlier: until Python is up, the system itself ends it, with the same meaning.
        time.sleep(rng.uniform(0.3, 4.0))
        process.send_signal(number)
        output = process.communicate(timeout=600)[0]
        assert process.returncode in (0, CODES[number], -number), f"trial {trial}: {output}"
        assert "Traceback" not in output, f"trial {trial}: {output}"
        if (run / RUN_FILE).exists():
            _nothing_done_is_lost(run)
        shutil.rmtree(run, ignore_errors=True)
    record("T7", "the same for `python -m reformer`, imports included", count, wrong_exit_codes=0)

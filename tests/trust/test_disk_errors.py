"""A disk that fails at any moment costs no checkpoint, and is told in one sentence."""

import builtins
import errno
import io
import os
import random
import resource
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from reformer.training.checkpoint import load_latest
from tests.trust.children import Prepare, training
from tests.trust.conftest import STEPS, new_run, outcome
from tests.trust.tiers import record, tiers

pytestmark = pytest.mark.usefixtures("server")

ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EDQUOT)
CALLS = ("fsync", "rename", "replace", "mkdir", "open", "chmod")
REQUESTS = 88
"""So many times an undisturbed run asks the disk for something, give or take a few."""
Template = tuple[Path, dict[str, Any]]


@pytest.fixture(scope="module")
def late(tmp_path_factory: pytest.TempPathFactory, pages: Path) -> Template:
    """A run that has three steps to go, and what it should leave."""
    folder = tmp_path_factory.mktemp("late")
    run = new_run(folder / "run", pages, keep_last=STEPS).path
    child = training(run, folder / "output")
    assert child.wait() == 0, child.text()
    expected = outcome(run)
    for step in range(STEPS + 1):
        if step != STEPS - 3:
            shutil.rmtree(run / "checkpoints" / f"step-{step:06d}", ignore_errors=True)
    (run / "checkpoints" / "latest").write_text(f"step-{STEPS - 3:06d}\n")
    return run, expected


def _try(run: Path, output: Path, expected: dict[str, Any], prepare: Prepare, case: str) -> bool:
    """Train with a failing disk; whether it failed. What is promised holds either way."""
    child = training(run, output, prepare)
    code, said = child.wait(), child.text()
    assert "Traceback" not in said, f"{case}: {said}"
    if code == 0:
        assert outcome(run) == expected, f"{case}: silently wrong"
        return False
    assert code in (1, 2) and said.splitlines()[-1].startswith("reformer: "), f"{case}: {said}"
    complaints: list[str] = []
    checkpoint = load_latest(run / "checkpoints", complaints.append)
    assert checkpoint is not None and checkpoint.step >= STEPS - 3, case
    assert not [c for c in complaints if "does not name" not in c], case
    return True


def _goes_on(run: Path, output: Path, expected: dict[str, Any], case: str) -> None:
    child = training(run, output)
    assert child.wait() == 0, f"{case}: {child.text()}"
    assert outcome(run) == expected, case


def _fail(number: int, error: int, lasting: bool) -> None:
    """The ``number``-th request to the disk fails, and those after it if that is lasting."""
    left = number

    def counted(call: Any, writes: Any = lambda *_, **__: True) -> Any:
        def fail_when_due(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            if writes(*args, **kwargs):
                left -= 1
                if left == 0 or (lasting and left < 0):
                    raise OSError(error, os.strerror(error), str(args[0]))
            return call(*args, **kwargs)

        return fail_when_due

    def for_writing(_file: Any, mode: str = "r", *_: Any, **__: Any) -> bool:
        return mode[0] in "wax"

    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))
    builtins.open = io.open = counted(open, for_writing)


@tiers(small=5, middle=60, full=2 * REQUESTS)
def test_every_call_to_the_disk_may_fail(scratch: Path, late: Template, count: int) -> None:
    template, expected = late
    failures = 0
    for trial in range(count):
        number = 1 + 31 * trial % REQUESTS  # prime to it: each number comes once before any again
        error, lasting = ERRORS[trial % len(ERRORS)], bool(trial // len(ERRORS) % 2)
        case = f"call {number}, {errno.errorcode[error]}, {'lasting' if lasting else 'once'}"
        run = scratch / "run"
        shutil.copytree(template, run)
        fail = partial(_fail, number, error, lasting)
        failures += _try(run, scratch / "output", expected, fail, case)
        _goes_on(run, scratch / "output", expected, case)
        shutil.rmtree(run)
    assert failures > 0.8 * count
    record("T3", "ENOSPC, EIO, EACCES or EDQUOT at one call to the disk, or from it on", count,
           failed_with_a_sentence=failures, lost=0, silent=0)  # fmt: skip


def _limit_file_size(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@tiers(small=2, middle=15, full=40)
def test_files_that_cannot_grow(scratch: Path, late: Template, count: int) -> None:
    """The system itself cuts writes off, in the middle of any file."""
    template, expected = late
    failures = 0
    largest = max(path.stat().st_size for path in template.rglob("*") if path.is_file())
    for trial in range(count):
        size = random.Random(trial).randint(1000, largest)
        run = scratch / "run"
        shutil.copytree(template, run)
        limit = partial(_limit_file_size, size)
        failures += _try(run, scratch / "output", expected, limit, f"{size} bytes")
        _goes_on(run, scratch / "output", expected, f"{size} bytes")
        shutil.rmtree(run)
    assert failures == count
    record("T3", "files limited to a random size by the system", count,
           failed_with_a_sentence=failures, lost=0)  # fmt: skip


@pytest.fixture
def small_disk(scratch: Path) -> Iterator[Path]:
    """A file system of its own, in memory."""
    path = scratch / "disk"
    path.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", path], check=False)
    if made.returncode != 0:
        pytest.skip("only root may mount a file system")
    yield path
    subprocess.run(["umount", path], check=True)


def _resize(disk: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", disk], check=True)


@tiers(small=2, middle=15, full=40)
def test_a_disk_that_fills_up(scratch: Path, small_disk: Path, late: Template, count: int) -> None:
    template, expected = late
    failures = 0
    for trial in range(count):
        run = small_disk / "run"
        shutil.copytree(template, run)
        usage = shutil.disk_usage(small_disk)
        room = random.Random(trial).randint(0, 60) * 4096
        _resize(small_disk, str(usage.used + room))
        case = f"{room} bytes of room"
        failures += _try(run, scratch / "output", expected, _nothing, case)
        _resize(small_disk, "64m")
        _goes_on(run, scratch / "output", expected, case)
        shutil.rmtree(run)
    assert failures > count / 3
    record("T3", "a file system with a random amount of room", count,
           failed_with_a_sentence=failures, lost=0)  # fmt: skip


def _nothing() -> None:
    """No preparation."""

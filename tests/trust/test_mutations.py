"""Whatever a file holds, reading it gives a result or one typed error, within bounded memory."""

import json
import random
import resource
import shutil
import signal
import traceback
from pathlib import Path

import pytest

from reformer.cli import _exit_code
from reformer.nn.cache import CacheError
from tests.trust.children import calling
from tests.trust.mutations import mutate_file
from tests.trust.slots import SLOTS, make_folders
from tests.trust.tiers import record, tiers

pytestmark = pytest.mark.usefixtures("server")

MEMORY = 1 << 30
"""Bytes that reading may take, beyond those of the process that reads."""
SECONDS = 60


def is_typed(error: BaseException) -> bool:
    """Whether a command would print this error as a sentence."""
    return isinstance(error, CacheError) or (
        isinstance(error, Exception) and _exit_code(error) is not None
    )


def cap_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _read_mutated(folders: Path, scratch: Path, names: tuple[str, ...], count: int) -> None:
    """Trial n damages the n-th slot in turn; what came of each goes to progress.json."""
    cap_memory()
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    slots = [slot for slot in SLOTS if slot.name in names]
    found = {"read": 0, "refused": 0}
    for trial in range(count):
        slot = slots[trial % len(slots)]
        found["trial"] = trial
        (scratch / "progress.json").write_text(json.dumps(found))
        folder = scratch / "folder"
        shutil.copytree(folders / slot.folder, folder)
        mutate_file(folder / slot.file, random.Random(trial))
        signal.alarm(SECONDS)
        try:
            slot.read(folder)
            found["read"] += 1
        except BaseException as error:
            if not is_typed(error):
                print(f"trial {trial}, {slot.name}: {traceback.format_exc()}", flush=True)
                raise SystemExit(9) from error
            found["refused"] += 1
        signal.alarm(0)
        shutil.rmtree(folder)
    (scratch / "progress.json").write_text(json.dumps(found))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("folders")
    make_folders(root)
    return root


@pytest.mark.parametrize("slot", range(len(SLOTS)), ids=[slot.name for slot in SLOTS])
def test_what_is_whole_is_read(folders: Path, tmp_path: Path, slot: int) -> None:
    folder = shutil.copytree(folders / SLOTS[slot].folder, tmp_path / "folder")
    SLOTS[slot].read(Path(folder))


def read_mutated(
    folders: Path, scratch: Path, names: tuple[str, ...], count: int
) -> dict[str, int]:
    """How many damaged files of these slots were read and refused; each must be one of the two."""
    child = calling(_read_mutated, (folders, scratch, names, count), scratch / "output")
    code = child.wait(3600)
    found = json.loads((scratch / "progress.json").read_text())
    assert code == 0, f"exit code {code} in trial {found['trial']}: {child.text()}"
    return found


@tiers(small=5 * len(SLOTS), middle=1000, full=6000)
def test_a_damaged_file_is_read_or_refused(folders: Path, scratch: Path, count: int) -> None:
    found = read_mutated(folders, scratch, tuple(slot.name for slot in SLOTS), count)
    assert found["refused"] > count / 4 and found["read"] > 0
    record("I2", "mutated files of every kind, memory capped at 1 GB", count,
           untyped_errors=0, refused=found["refused"], read=found["read"])  # fmt: skip

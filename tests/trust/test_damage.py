"""Damage to a checkpoint is noticed, whatever it is, and the one before it is used instead."""

import random
import re
import shutil
from pathlib import Path

import pytest

from reformer.training.checkpoint import CheckpointError, load_latest
from tests.trust.children import training
from tests.trust.conftest import new_run
from tests.trust.tiers import record, tiers

STEPS = 3


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, server: None, pages: Path) -> Path:
    """A finished run with checkpoints of steps 2 and 3."""
    folder = tmp_path_factory.mktemp("trained")
    run = new_run(folder / "run", pages, steps=STEPS, keep_last=2).path
    assert training(run, folder / "output").wait() == 0
    return run


@pytest.fixture
def checkpoints(scratch: Path, trained: Path) -> Path:
    return Path(shutil.copytree(trained / "checkpoints", scratch / "checkpoints"))


def _load(root: Path) -> tuple[int, list[str]]:
    said: list[str] = []
    found = load_latest(root, said.append)
    assert found is not None
    return found.step, said


def _files(root: Path) -> list[Path]:
    return [*sorted((root / f"step-{STEPS:06d}").iterdir()), root / "latest"]


def test_undamaged_checkpoints_are_loaded_in_silence(checkpoints: Path) -> None:
    assert _load(checkpoints) == (STEPS, [])


@tiers(small=150, middle=500, full=1000)
def test_any_flipped_bit_is_noticed(checkpoints: Path, count: int) -> None:
    files = _files(checkpoints)
    assert {path.name for path in files} >= {"manifest.json", "state.json", "latest"}
    rng = random.Random(4)
    hits = dict.fromkeys((path.name for path in files), 0)
    for trial in range(count):
        # Large files and small ones alike: a bit of the manifest is as bad as one of the weights.
        file = files[trial % len(files)]
        original = file.read_bytes()
        data = bytearray(original)
        place, bit = rng.randrange(len(data)), rng.randrange(8)
        data[place] ^= 1 << bit
        file.write_bytes(data)
        step, said = _load(checkpoints)
        case = f"bit {bit} of byte {place} of {file.name}"
        assert said, f"unnoticed: {case}"
        if file.name == "latest":
            assert step == STEPS, case
        else:
            assert step == STEPS - 1 and "trying the one before it" in said[0], case
            assert f"step-{STEPS:06d} " in said[0] and file.name in said[0], case
        file.write_bytes(original)
        hits[file.name] += 1
    record("T4", "single bits flipped in checkpoint files", count, noticed=count,
           fell_back_one_checkpoint=count - hits["latest"], files=hits)  # fmt: skip


@tiers(small=60, middle=300, full=1000)
def test_truncated_and_missing_files_are_noticed(checkpoints: Path, count: int) -> None:
    files = [path for path in _files(checkpoints) if path.name != "latest"]
    for trial in range(count):
        rng = random.Random(trial)
        originals = {path: path.read_bytes() for path in files}
        damaged = rng.sample(files, rng.randint(1, len(files)))
        for path in damaged:
            whole = originals[path]
            length = rng.randrange(len(whole))
            kind = rng.randrange(5)
            path.unlink()
            if kind == 1:
                path.write_bytes(whole[:length])
            elif kind == 2:
                path.write_bytes(whole[:length] + bytes(len(whole) - length) + b"\0")
            elif kind == 3:
                path.write_bytes(whole + rng.randbytes(1 + length))
            elif kind == 4:
                path.mkdir()
        step, said = _load(checkpoints)
        assert step == STEPS - 1 and len(said) == 2, f"trial {trial}: {said}"
        assert any(path.name in said[0] for path in damaged), f"trial {trial}: {said}"
        for path, data in originals.items():
            if path.is_dir():
                path.rmdir()
            path.write_bytes(data)
    assert _load(checkpoints) == (STEPS, [])
    record("T5", "checkpoints with truncated, missing or lengthened files", count, noticed=count)


def test_checkpoints_of_which_none_is_whole_are_an_error(checkpoints: Path) -> None:
    for folder in checkpoints.glob("step-*"):
        (folder / "state.json").unlink()
    with pytest.raises(CheckpointError, match="none of the 2 checkpoints"):
        load_latest(checkpoints, lambda _: None)


def test_a_run_goes_on_from_the_one_before_and_says_so(scratch: Path, trained: Path) -> None:
    run = Path(shutil.copytree(trained, scratch / "run"))
    whole = (run / "checkpoints" / f"step-{STEPS:06d}" / "model.safetensors").read_bytes()
    path = run / "checkpoints" / f"step-{STEPS:06d}" / "model.safetensors"
    path.write_bytes(whole[:-1])
    child = training(run, scratch / "output")
    assert child.wait() == 0
    assert re.search(r"damaged: model\.safetensors .*; trying the one before it", child.text())
    assert "Going on from step 2." in child.text()
    assert path.read_bytes() == whole

"""A checkpoint is whole and right, or it is noticed; an older one is always left."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from reformer.models import store
from reformer.training import checkpoint as checkpoint_module
from reformer.training.checkpoint import (
    CheckpointError,
    load_latest,
    save_checkpoint,
    verify_checkpoint,
)


def _tensors(value: float) -> dict[str, dict[str, Tensor]]:
    weights = {"a": torch.full((3, 4), float(value)), "b": torch.arange(5)}
    return {
        "model.safetensors": weights,
        "optimizer.safetensors": {"m": torch.full((7,), float(value))},
    }


def _save(root: Path, step: int, keep_last: int = 2) -> Path:
    return save_checkpoint(root, step, {"step": step}, _tensors(step), keep_last=keep_last)


def _refuse(sentence: str) -> None:
    raise AssertionError(sentence)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    _save(tmp_path, 5)
    loaded = load_latest(tmp_path, _refuse)
    assert loaded is not None
    assert (loaded.step, loaded.state) == (5, {"step": 5})
    for name, expected in _tensors(5).items():
        found = loaded.tensors(name)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_nothing_saved_is_nothing_loaded(tmp_path: Path) -> None:
    assert load_latest(tmp_path / "missing", _refuse) is None


def test_only_the_last_are_kept_and_numbers_are_compared_as_numbers(tmp_path: Path) -> None:
    for step in (999_998, 999_999, 1_000_000):
        _save(tmp_path, step)
    assert {p.name for p in tmp_path.iterdir()} == {"step-999999", "step-1000000", "latest"}
    assert load_latest(tmp_path, _refuse).step == 1_000_000  # type: ignore[union-attr]


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    folder = _save(tmp_path, 3)
    (folder / "model.safetensors").write_bytes(b"broken")
    _save(tmp_path, 3)
    assert verify_checkpoint(folder).step == 3
    assert not list(tmp_path.glob(".tmp-*"))


def test_a_manifest_cannot_name_files_elsewhere(tmp_path: Path) -> None:
    folder = _save(tmp_path, 1)
    shutil.copy(folder / "state.json", tmp_path / "secret")
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"]["../secret"] = manifest["files"].pop("state.json")
    del manifest["checksum"]
    manifest["checksum"] = checkpoint_module._checksum(manifest)
    path.write_text(checkpoint_module._canonical(manifest))
    with pytest.raises(CheckpointError, match=r"manifest\.json has changed"):
        verify_checkpoint(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_never_saved(tmp_path: Path, value: float) -> None:
    _save(tmp_path, 1)
    tensors = _tensors(2)
    tensors["optimizer.safetensors"]["m"][3] = value
    with pytest.raises(CheckpointError, match="m holds NaN or infinity"):
        save_checkpoint(tmp_path, 2, {}, tensors, keep_last=1)
    assert load_latest(tmp_path, _refuse).step == 1  # type: ignore[union-attr]


def _failing(call: Callable[..., Any], countdown: list[int]) -> Callable[..., Any]:
    def fail_when_due(*args: Any, **kwargs: Any) -> Any:
        countdown[0] -= 1
        if countdown[0] == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return call(*args, **kwargs)

    return fail_when_due


@pytest.mark.parametrize("next_step", [1, 2])
def test_a_disk_that_fails_at_any_moment_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, next_step: int
) -> None:
    """Every write, flush and rename of a save fails once; the old state is always there.

    Saving step 1 again must not lose it, though its folder has to make way.
    """
    failures = 0
    for moment in range(1, 200):
        root = tmp_path / str(moment)
        _save(root, 1, keep_last=1)
        countdown = [moment]
        with monkeypatch.context() as patch:
            for name in ("fsync", "rename", "replace", "mkdir"):
                patch.setattr(os, name, _failing(getattr(os, name), countdown))
            for owner, name in ((store, "save_file"), (Path, "write_text")):
                patch.setattr(owner, name, _failing(getattr(owner, name), countdown))
            try:
                _save(root, next_step, keep_last=1)
            except CheckpointError as error:
                failures += "No space left" in str(error)
        loaded = load_latest(root, lambda _: None)
        assert loaded is not None and loaded.step in (1, next_step)
        _save(root, 3, keep_last=1)
        assert load_latest(root, _refuse).step == 3  # type: ignore[union-attr]
        assert {path.name for path in root.iterdir()} == {"step-000003", "latest"}
        shutil.rmtree(root)
        if countdown[0] > 0:
            break
    assert failures > 10


def test_a_save_flushes_files_then_names_the_folder_then_the_pointer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    names: dict[int, str] = {}
    open_file, fsync, rename, replace = os.open, os.fsync, os.rename, os.replace

    def opened(path: Any, *args: Any, **kwargs: Any) -> int:
        descriptor = open_file(path, *args, **kwargs)
        names[descriptor] = Path(path).name
        return descriptor

    def flushed(descriptor: int) -> None:
        events.append(f"flush {names.pop(descriptor, 'pointer')}")
        fsync(descriptor)

    def renamed(source: Any, target: Any) -> None:
        events.append(f"name {Path(target).name}")
        rename(source, target)

    def replaced(source: Any, target: Any) -> None:
        events.append(f"name {Path(target).name}")
        replace(source, target)

    tmp_path = tmp_path / "checkpoints"
    for name, call in (("open", opened), ("fsync", flushed), ("rename", renamed)):
        monkeypatch.setattr(os, name, call)
    monkeypatch.setattr(os, "replace", replaced)
    _save(tmp_path, 4)
    files = ["manifest.json", "model.safetensors", "optimizer.safetensors", "state.json"]
    assert events == [
        f"flush {tmp_path.parent.name}",  # in which the folder is new
        *(f"flush {name}" for name in files),
        "flush .tmp-step-000004",
        "name step-000004",
        "flush checkpoints",
        "flush pointer",
        "name latest",
        "flush checkpoints",
    ]

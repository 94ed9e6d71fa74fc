"""Checkpoints that are either whole and right, or noticed.

A checkpoint is a folder ``step-000500`` with safetensors and JSON files and a manifest of
their sizes and SHA-256 sums. It is written under a temporary name, flushed, renamed, and
only then named by the pointer file ``latest``. Loading verifies everything and falls back
to the newest checkpoint that is whole. Nothing is pickled.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from reformer import durable
from reformer.models.store import write_tensors

MANIFEST_FILE = "manifest.json"
STATE_FILE = "state.json"
POINTER_FILE = "latest"
_PREFIX = "step-"
_FORMAT = 1


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written or read; the message names it and the reason."""


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint: its folder, step, JSON state, and tensors by file and name."""

    folder: Path
    step: int
    state: dict[str, Any]

    def tensors(self, file_name: str) -> dict[str, Tensor]:
        """The tensors of one safetensors file."""
        path = self.folder / file_name
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from error


def save_checkpoint(
    root: Path,
    step: int,
    state: Mapping[str, Any],
    tensors: Mapping[str, Mapping[str, Tensor]],
    *,
    texts: Mapping[str, str] | None = None,
    keep_last: int,
) -> Path:
    """Write ``root/step-NNNNNN`` and delete all but the ``keep_last`` newest checkpoints.

    tensors: safetensors file name to tensors by name; a NaN or inf among them is an error
    that names it, and nothing is written. texts: further text files by name. state: plain
    JSON values. CheckpointError when the disk fails; earlier checkpoints stay as they are.
    """
    for contents in tensors.values():
        refuse_non_finite(contents)
    name = f"{_PREFIX}{step:06d}"
    temporary = root / (durable.TEMPORARY + name)
    try:
        durable.make_folder(root)
        durable.restore_folders(root)
        durable.clear_temporary(root)
        temporary.mkdir()
        for file_name, contents in tensors.items():
            write_tensors(temporary / file_name, contents)
        for file_name, text in (texts or {}).items():
            (temporary / file_name).write_text(text, encoding="utf-8")
        (temporary / STATE_FILE).write_text(_canonical(dict(state)), encoding="utf-8")
        manifest = _manifest(temporary, step)
        (temporary / MANIFEST_FILE).write_text(manifest, encoding="utf-8")
        durable.publish_folder(temporary, root / name)
        durable.write_text(root / POINTER_FILE, name + "\n")
        for old in _folders(root)[keep_last:]:
            durable.discard_folder(old)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        reason = error.strerror or str(error)
        raise CheckpointError(
            f"the checkpoint of step {step} could not be saved in {root}: {reason}; "
            "earlier checkpoints are untouched"
        ) from error
    return root / name


def load_latest(root: Path, say: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint that is whole, or None when there are none at all.

    ``say`` receives a sentence for each one that is damaged. CheckpointError when there are
    checkpoints and none is whole.
    """
    durable.restore_folders(root)
    durable.clear_temporary(root)
    folders = _folders(root)
    for folder in folders:
        try:
            checkpoint = verify_checkpoint(folder)
        except CheckpointError as error:
            say(f"{error}; trying the one before it")
            continue
        _check_pointer(root, checkpoint, say)
        return checkpoint
    if folders:
        raise CheckpointError(f"none of the {len(folders)} checkpoints in {root} is whole")
    return None


def verify_checkpoint(folder: Path) -> Checkpoint:
    """Check every size and checksum; CheckpointError names the first file that is wrong."""
    manifest = _read_manifest(folder)
    for name, expected in manifest["files"].items():
        path = folder / name
        try:
            size = path.stat().st_size
            damaged = size != expected["size"] or _sha256(path) != expected["sha256"]
        except OSError as error:
            raise CheckpointError(f"the checkpoint {folder} lacks {name}") from error
        if damaged:
            raise CheckpointError(f"the checkpoint {folder} is damaged: {name} has changed")
    return Checkpoint(folder, manifest["step"], _read_state(folder / STATE_FILE))


def _read_state(path: Path) -> dict[str, Any]:
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} must hold one JSON object")
    return state


def refuse_non_finite(tensors: Mapping[str, Tensor]) -> None:
    """CheckpointError that names the first tensor with a NaN or an infinity in it."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{name} holds NaN or infinity: it is not saved")


def _manifest(folder: Path, step: int) -> str:
    files = {
        path.name: {"size": path.stat().st_size, "sha256": _sha256(path)}
        for path in sorted(folder.iterdir())
    }
    manifest: dict[str, Any] = {"format": _FORMAT, "step": step, "files": files}
    manifest["checksum"] = _checksum(manifest)
    return _canonical(manifest)


def _read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest, if its text is exactly what ``_manifest`` would write for its content."""
    path = folder / MANIFEST_FILE
    damaged = f"the checkpoint {folder} is damaged: {MANIFEST_FILE}"
    try:
        text = path.read_text(encoding="utf-8")
        manifest = json.loads(text)
        whole = (
            manifest["format"] == _FORMAT
            and manifest.pop("checksum") == _checksum(manifest)
            and _canonical({**manifest, "checksum": _checksum(manifest)}) == text
            and f"{_PREFIX}{manifest['step']:06d}" == folder.name
            and all("/" not in name and name not in ("", "..") for name in manifest["files"])
        )
    except FileNotFoundError as error:
        raise CheckpointError(f"the checkpoint {folder} lacks {MANIFEST_FILE}") from error
    except (
        OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError
    ) as error:  # fmt: skip
        raise CheckpointError(f"{damaged} cannot be read") from error
    if not whole:
        raise CheckpointError(f"{damaged} has changed")
    return dict(manifest)


def _check_pointer(root: Path, found: Checkpoint, say: Callable[[str], None]) -> None:
    try:
        named = (root / POINTER_FILE).read_bytes()
    except OSError:
        named = b""
    if named != f"{found.folder.name}\n".encode():
        say(f"{root / POINTER_FILE} does not name {found.folder.name}, the newest that is whole")


def _folders(root: Path) -> list[Path]:
    """Checkpoint folders, newest first."""
    found = [
        path
        for path in root.glob(_PREFIX + "*")
        if path.is_dir() and path.name.removeprefix(_PREFIX).isdigit()
    ]
    return sorted(found, key=lambda path: int(path.name.removeprefix(_PREFIX)), reverse=True)


def _canonical(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=2, sort_keys=True, allow_nan=False) + "\n"


def _checksum(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical(manifest).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

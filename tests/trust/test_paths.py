"""No name inside a file leads a reader out of the folder that it was given."""

import itertools
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from reformer.cli import _exit_code
from reformer.data.chat_template import read_template
from reformer.data.tokenizer import tokenizer_in
from reformer.interop.checkpoint_files import read_tensors
from reformer.models.store import read_config
from reformer.training import checkpoint
from reformer.training.checkpoint import save_checkpoint, verify_checkpoint
from reformer.training.run import open_run
from tests.trust.slots import make_folders
from tests.trust.tiers import record, tiers

_WATCHED: list[str] = []
_opened: list[str] = []


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _WATCHED and isinstance(arguments[0], str):
        _opened.append(arguments[0])


@pytest.fixture
def opened() -> Any:
    """The paths that Python opens during a test; hooks cannot be taken away, only silenced."""
    if not hasattr(sys, "_reformer_watch"):
        sys.addaudithook(_watch)
        sys._reformer_watch = True  # type: ignore[attr-defined]
    _WATCHED.append("on")
    _opened.clear()
    yield _opened
    _WATCHED.clear()


def _escapes(outside: Path) -> list[str]:
    """Names of the file ``outside/NAME`` as seen from a folder beside ``outside``."""
    name = outside.name
    parts = [("..",), (".", ".."), ("..", "folder", ".."), ("sub", "..", "..")]
    found = ["/".join((*part, outside.parent.name, name)) for part in parts]
    found += [
        str(outside),
        f"//{outside}",
        f"file://{outside}",
        f"~/{name}",
        f"/proc/self/root{outside}",
    ]
    found += [escape.replace("/", "\\") for escape in found]
    found += [f"{escape}\0.safetensors" for escape in found[:3]]
    found += [".", "..", "", "/", "C:\\x.safetensors", f"./{name}", f"sub/{name}"]
    return found


def _index(folder: Path, name: str) -> object:
    values = {"weight_map": {"a": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(values))
    return read_tensors(folder, "model.safetensors")


def _bin_index(folder: Path, name: str) -> object:
    name = name.removesuffix(".safetensors") + ".bin"
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    return read_tensors(folder, "pytorch_model.bin")


def _manifest(folder: Path, name: str) -> object:
    root = folder / "checkpoints"
    step = save_checkpoint(root, 1, {}, {"model.safetensors": {}}, keep_last=1)
    manifest = json.loads((step / "manifest.json").read_text())
    manifest["files"][name] = manifest["files"].pop("state.json")
    del manifest["checksum"]
    manifest["checksum"] = checkpoint._checksum(manifest)
    (step / "manifest.json").write_text(checkpoint._canonical(manifest))
    return verify_checkpoint(step)


READERS: tuple[Callable[[Path, str], object], ...] = (_index, _bin_index, _manifest)


@tiers(small=1, middle=2, full=3)
def test_names_that_lead_elsewhere_are_refused(
    scratch: Path, opened: list[str], count: int
) -> None:
    """Each name points to a file that is right: reading it would succeed."""
    outside = scratch / "outside" / "secret.safetensors"
    outside.parent.mkdir()
    save_file({"a": torch.zeros(2)}, outside)
    torch.save({"a": torch.zeros(2)}, outside.with_suffix(".bin"))
    tries = 0
    for depth, reader, escape in itertools.product(range(count), READERS, _escapes(outside)):
        folder = scratch.joinpath(*["deep"] * depth, "folder")
        (folder / "sub").mkdir(parents=True)
        name = "../" * depth + escape if escape.startswith("..") else escape
        opened.clear()
        with pytest.raises(Exception) as caught:  # noqa: PT011 - its type is checked below
            reader(folder, name)
        assert _exit_code(caught.value) is not None, f"{name!r}: {caught.value!r}"
        assert not [path for path in opened if "secret" in path], f"{name!r} was opened"
        shutil.rmtree(folder)
        tries += 1
    record("I3", "names in an index or a manifest that lead out of the folder", tries, followed=0)


def test_a_folder_is_read_by_fixed_names_alone(tmp_path: Path, opened: list[str]) -> None:
    """Paths inside configs, tokenizers and templates are data: nothing beyond the folder opens."""
    make_folders(tmp_path)
    outside = tmp_path / "outside.json"
    outside.write_text("{}")
    for folder in ("model", "run", "tokenizer"):
        for path in (tmp_path / folder).glob("*.json"):
            values = json.loads(path.read_text())
            for key in ("tokenizer", "vocab_file", "merges_file", "auto_map", "include", "$ref"):
                values[key] = str(outside)
            path.write_text(json.dumps(values))
        opened.clear()
        for read in (read_config, tokenizer_in, read_template, open_run):
            try:
                read(tmp_path / folder)
            except Exception as error:
                assert _exit_code(error) is not None, repr(error)  # noqa: PT017
        assert not [path for path in opened if Path(path).name == outside.name]

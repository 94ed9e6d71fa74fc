"""A pickle that runs a program when it is loaded, in the place of every file: nothing runs."""

import contextlib
import gzip
import io
import pickle
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.trust.slots import SLOTS, Slot, make_folders
from tests.trust.test_mutations import is_typed
from tests.trust.tiers import record, tiers


class Bomb:
    """Unpickling this makes a file."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.witness,)


class Command(Bomb):
    """The same by the shell."""

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, (f"touch {self.witness}",)


def _saved(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def _array(value: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([value, None], dtype=object), allow_pickle=True)
    return buffer.getvalue()


Payload = Callable[[Path], bytes]
PAYLOADS: dict[str, Payload] = {
    "protocol 4": lambda witness: pickle.dumps(Bomb(witness), 4),
    "torch": lambda witness: _saved({"weight": Bomb(witness)}),
    "gzip": lambda witness: gzip.compress(pickle.dumps({"weights": [Bomb(witness)]})),
    "torch, the old way": lambda witness: _saved(
        {"weight": Bomb(witness)}, _use_new_zipfile_serialization=False
    ),
    "weights": lambda witness: pickle.dumps({"weights": [np.zeros(3), Bomb(witness)]}),
    "numpy": lambda witness: _array(Bomb(witness)),
    "protocol 0": lambda witness: pickle.dumps(Bomb(witness), 0),
    "protocol 1": lambda witness: pickle.dumps([Command(witness)], 1),
    "protocol 2": lambda witness: pickle.dumps(Command(witness), 2),
    "protocol 3": lambda witness: pickle.dumps((1, Command(witness)), 3),
    "protocol 5": lambda witness: pickle.dumps({Command(witness): 1}, 5),
    "torch module": lambda witness: _saved(Command(witness)),
}


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
def test_the_payloads_would_run(tmp_path: Path, payload: Payload) -> None:
    witness = tmp_path / "witness"
    data = payload(witness)
    if data[:2] == b"\x1f\x8b":
        pickle.loads(gzip.decompress(data))
    elif data[:6] == b"\x93NUMPY":
        np.load(io.BytesIO(data), allow_pickle=True)
    else:
        with warnings.catch_warnings(), contextlib.suppress(Exception):
            warnings.simplefilter("ignore")
            torch.load(io.BytesIO(data), weights_only=False)
        with contextlib.suppress(pickle.UnpicklingError):
            pickle.loads(data)
    assert witness.exists()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("folders")
    make_folders(root)
    return root


def _error_of(slot: Slot, folder: Path) -> Exception | None:
    try:
        slot.read(folder)
    except Exception as error:
        return error
    return None


@tiers(small=3, middle=6, full=len(PAYLOADS))
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_no_file_is_ever_unpickled(folders: Path, scratch: Path, count: int) -> None:
    """``count`` kinds of pickles in each slot: as the whole file, and after what was there."""
    witness, tries, refused = scratch / "witness", 0, 0
    for slot in SLOTS:
        for name in list(PAYLOADS)[:count]:
            data = PAYLOADS[name](witness)
            for before in (False, True):
                folder = Path(shutil.copytree(folders / slot.folder, scratch / "folder"))
                path = folder / slot.file
                path.write_bytes(path.read_bytes() + data if before else data)
                error = _error_of(slot, folder)
                assert error is None or is_typed(error), f"{slot.name}, {name}: {error!r}"
                refused += error is not None
                assert not witness.exists(), f"{slot.name} ran a pickle ({name})"
                shutil.rmtree(folder)
                tries += 1
    assert refused > tries / 2
    record("I1", f"malicious pickles in {len(SLOTS)} files", tries, executed=0, refused=refused)

"""Pickles of plain data are read; whatever would run something is refused, and does not run."""

import collections
import contextlib
import io
import os
import pickle

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies

from reformer.interop.huggingface import ConversionError, load
from reformer.interop.plain_pickle import PickleError, read_pickle
from tests.interop.their_models import their_model

PROTOCOLS = [0, 1, 2, 3, 4, 5]
PLAIN = {
    "step": 3, "rate": -0.5, "big": 2**70, "name": "naïve", "raw": b"\x00\xff", "none": None,
    "yes": True, "nested": ([1, (2, (), [])], {"a": {}}), "four": (1, 2, 3, 4),
}  # fmt: skip
ARRAYS = [
    np.arange(6, dtype=np.float32).reshape(2, 3), np.zeros((0, 4)), np.array(1.5),
    np.asfortranarray(np.arange(6).reshape(2, 3)), np.array([True, False]),
    np.arange(3, dtype=">i4"), np.arange(8, dtype=np.int16)[::2],
]  # fmt: skip


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_data_is_read(protocol):
    assert read_pickle(pickle.dumps(PLAIN, protocol)) == PLAIN
    assert read_pickle(pickle.dumps(collections.OrderedDict(b=1, a=2), protocol)) == {
        "b": 1,
        "a": 2,
    }


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{a.dtype}{a.shape}")
def test_arrays_are_read(array, protocol):
    found = read_pickle(pickle.dumps((array, [array, np.float32(2.5)]), protocol))
    for copy in (found[0], found[1][0]):
        assert copy.dtype == array.dtype
        assert np.array_equal(copy, array)
    assert found[1][1] == 2.5


def test_shared_parts_cost_their_size_once():
    value = ()
    for _ in range(80):
        value = (value, value)
    assert isinstance(read_pickle(pickle.dumps(value)), tuple)
    loop = []
    loop.append(loop)
    assert isinstance(read_pickle(pickle.dumps(loop)), list)


class Runs:
    """Unpickling this would run a function that leaves a file behind."""

    def __init__(self, path, function=os.system):
        self.call = function, (f"touch {path}",)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("function", [os.system, eval, exec, os.open], ids=lambda f: f.__name__)
def test_nothing_runs(function, protocol, tmp_path):
    trap = tmp_path / "trap"
    arguments = (str(trap), os.O_CREAT) if function is os.open else None
    evil = Runs(trap, function)
    if arguments:
        evil.call = function, arguments
    for value in (evil, {"weights": [evil]}, (np.zeros(3), evil)):
        with pytest.raises(PickleError, match="asks for"):
            read_pickle(pickle.dumps(value, protocol))
    assert not trap.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"(S'touch trap'\nios\nsystem\n.",  # INST
        b"cbuiltins\neval\n.",
        b"cnumpy\nndarray\n.",
        b"(lp0\n(cnumpy\ndtype\n(S'O8'\ntR.",  # objects
        b"\x80\x02}\x81.",  # NEWOBJ
        b"\x80\x02K\x01Q.",  # persistent id
        b"\x80\x02\x82\x01.",  # extension registry
        b"cos\nsystem\nq\x00(h\x00S'true'\ntR.",
        b"K\x01K\x02R.", b"N)R.", b"h\x05.", b"t.", b"a.", b"K\x01K\x01a.", b"K\x01Nb.", b".", b"",
        b"\x8a\xff", b"X\xff\xff\xff\xff", b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7f", b"K\x01",
    ],
)  # fmt: skip
def test_ill_made_pickles_give_one_typed_error(data):
    with pytest.raises(PickleError):
        read_pickle(data)


@hypothesis.given(strategies.data())
def test_mutated_pickles_are_read_or_refused(data):
    whole = bytearray(pickle.dumps({"weights": [np.arange(4.0), (1, "a")]}, 4))
    for _ in range(data.draw(strategies.integers(1, 4))):
        place = data.draw(strategies.integers(0, len(whole) - 1))
        whole[place] = data.draw(strategies.integers(0, 255))
    with contextlib.suppress(PickleError):
        read_pickle(bytes(whole))


def test_a_malicious_pytorch_file_runs_nothing(tmp_path):
    trap = tmp_path / "trap"
    their_model().save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    path = tmp_path / "model" / "pytorch_model.bin"
    for zipped in (True, False):
        torch.save({"x": Runs(trap)}, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(ConversionError, match=r"pytorch_model\.bin, ?.*|has no"):
            load(tmp_path / "model")
        with pytest.raises(ConversionError, match="plain weights"):
            load(tmp_path / "model", weights_file="pytorch_model.bin")
    path.write_bytes(pickle.dumps(Runs(trap)))
    with pytest.raises(ConversionError):
        load(tmp_path / "model", weights_file="pytorch_model.bin")
    # In the place of safetensors and of JSON there is nothing that could run.
    for name in ("model.safetensors", "config.json"):
        (tmp_path / "model" / name).write_bytes(pickle.dumps(Runs(trap)))
        with pytest.raises(ConversionError):
            load(tmp_path / "model")
    assert not trap.exists()


def test_a_pytorch_file_is_read_when_it_is_asked_for(tmp_path):
    theirs = their_model()
    theirs.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ConversionError, match="--weights-file"):
        load(tmp_path)
    found = load(tmp_path, weights_file="pytorch_model.bin").state_dict()
    assert all(torch.equal(found[k], t) for k, t in load(theirs).state_dict().items())
    buffer = io.BytesIO()
    torch.save({"a": 1}, buffer)
    (tmp_path / "pytorch_model.bin").write_bytes(buffer.getvalue())
    with pytest.raises(ConversionError, match="named tensors"):
        load(tmp_path, weights_file="pytorch_model.bin")

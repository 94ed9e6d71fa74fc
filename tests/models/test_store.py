"""Models on disk: the same bits back, and one typed error for whatever is not a model."""

import json
import os
import pickle
import random
import struct
from pathlib import Path

import pytest
import torch

from reformer.models.language import ReformerForCausalLM
from reformer.models.store import ModelError
from tests.models.small import small_config, small_model, tokens


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    small_model(small_config()).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_saved_model_comes_back_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    model = small_model(small_config(axial_shape=(16, 4), axial_sizes=(6, 10))).to(dtype)
    model.save_pretrained(tmp_path / "a" / "b")
    loaded = ReformerForCausalLM.from_pretrained(tmp_path / "a" / "b")
    assert loaded.config == model.config
    assert not loaded.training
    assert set(loaded.state_dict()) == set(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
        assert loaded.state_dict()[name].dtype == dtype
    assert torch.equal(loaded(tokens()).logits, model.eval()(tokens()).logits)
    loaded(tokens(), labels=tokens()).loss.backward()
    assert all(parameter.grad is not None for parameter in loaded.parameters())


def test_loading_and_making_models_leaves_the_global_generator_alone(folder: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    ReformerForCausalLM.from_pretrained(folder)
    small_model(small_config())
    assert torch.equal(torch.rand(3), expected)


def test_saving_again_replaces_and_leaves_two_files(folder: Path) -> None:
    other = small_model(small_config(seed=9))
    other.save_pretrained(folder)
    assert sorted(os.listdir(folder)) == ["config.json", "model.safetensors"]
    loaded = ReformerForCausalLM.from_pretrained(folder)
    assert torch.equal(loaded.head.weight, other.head.weight)


def load(folder: Path) -> ReformerForCausalLM:
    return ReformerForCausalLM.from_pretrained(folder)


def test_what_is_missing_is_named(folder: Path, tmp_path: Path) -> None:
    for bad in (tmp_path / "nowhere", tmp_path, folder / "config.json"):
        with pytest.raises(ModelError, match="is not a model: it has no config.json"):
            load(bad)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="it has no model.safetensors"):
        load(folder)


def rewrite_config(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["reformer"] |= values
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hidden_size": -1}, "hidden_size is -1"),
        ({"hidden_size": "16"}, "hidden_size is '16'"),
        ({"hidden_size": 1e999}, "hidden_size is inf"),
        ({"num_heads": 2**63}, "num_heads is"),
        ({"hidden_size": 32}, "but config.json asks for"),
        ({"vocab_size": 2**31 - 1, "hidden_size": 2**31 - 1}, "would not fit any machine"),
        ({"max_length": 2**31 - 1}, "but config.json asks for"),
        ({"layers": []}, "layers is"),
        ({"layers": [{"kind": "dense"}]}, "kind is 'dense'"),
        ({"layers": [{"kind": "lsh", "num_buckets": 3}]}, "num_buckets is 3"),
        ({"layers": [{"kind": "lsh"}]}, "lacks"),
        ({"layers": 7}, "layers is 7"),
        ({"dropout": float("nan")}, "dropout is nan"),
        ({"colour": "red"}, "no field 'colour'"),
        ({"axial_shape": [2, 2]}, "axial_shape"),
        ({"causal": False}, "causal is False"),
        ({"causal": "no"}, "causal is 'no'"),
    ],
)
def test_a_config_that_cannot_work_is_refused_before_anything_is_allocated(
    folder: Path, values: dict[str, object], message: str
) -> None:
    rewrite_config(folder, **values)
    with pytest.raises(ModelError, match=message):
        load(folder)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "7", '"a"', "{}", '{"architectures": 5}', "[" * 100_000, "\ud800\x00",
     '{"architectures": ["ReformerForCausalLM"], "reformer": []}'],
)  # fmt: skip
def test_a_config_that_is_no_config_is_refused(folder: Path, text: str) -> None:
    (folder / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ModelError, match="config.json"):
        load(folder)


def header_and_data(path: Path) -> tuple[dict[str, dict[str, object]], bytes]:
    raw = path.read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    return json.loads(raw[8 : 8 + size]), raw[8 + size :]


def write_weights(path: Path, header: object, data: bytes) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "I32"},
        {"dtype": "U8"},
        {"dtype": "F64"},
        {"dtype": "F128"},
        {"shape": [2**40, 2**40]},
        {"shape": []},
        {"shape": [-1]},
        {"data_offsets": [0, 2**62]},
        {"data_offsets": [8, 4]},
    ],
)
def test_a_weight_that_is_described_wrongly_is_refused(
    folder: Path, change: dict[str, object]
) -> None:
    path = folder / "model.safetensors"
    header, data = header_and_data(path)
    header["head.bias"] |= change
    write_weights(path, header, data)
    with pytest.raises(ModelError, match="model.safetensors"):
        load(folder)


def test_weights_with_missing_and_strange_tensors_are_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    header, data = header_and_data(path)
    header["head.other"] = header.pop("head.bias")
    write_weights(path, header, data)
    with pytest.raises(ModelError, match="lacks head.bias"):
        load(folder)
    for length in (0, 4, 8, 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError, match="is damaged"):
            load(folder)
    path.write_bytes(struct.pack("<Q", 2**63 - 1) + whole[8:])
    with pytest.raises(ModelError, match="is damaged"):
        load(folder)


def mutate(raw: bytes, chance: random.Random) -> bytes:
    changed = bytearray(raw)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(changed))
        action = chance.randrange(4)
        if action == 0:
            changed[place] ^= 1 << chance.randrange(8)
        elif action == 1:
            del changed[place : place + chance.randint(1, 20)]
        elif action == 2:
            changed[place:place] = chance.randbytes(chance.randint(1, 20))
        else:
            changed[place : place + 1] = chance.choice([b"9", b"-", b"e", b'"', b"}", b"[", b"0"])
    return bytes(changed)


def check_mutations(folder: Path, name: str, seeds: range) -> int:
    """Load mutated files; returns how many were refused. Any other error fails the test."""
    path = folder / name
    raw = path.read_bytes()
    # Damage to the numbers themselves is for checksums; here the description is the target.
    (size,) = struct.unpack("<Q", raw[:8]) if name == "model.safetensors" else (len(raw) - 8,)
    refused = 0
    for seed in seeds:
        chance = random.Random(seed)
        path.write_bytes(mutate(raw[: 8 + size], chance) + raw[8 + size :])
        try:
            load(folder)
        except ModelError:
            refused += 1
    path.write_bytes(raw)
    load(folder)
    return refused


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_mutated_files_give_a_model_or_a_typed_error(folder: Path, name: str) -> None:
    assert check_mutations(folder, name, range(60)) > 30


@pytest.mark.slow
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_many_mutated_files_give_a_model_or_a_typed_error(folder: Path, name: str) -> None:
    assert check_mutations(folder, name, range(1000, 3000)) > 1000


class Bomb:
    """Unpickling this writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "pytorch_model.bin"])
def test_pickles_are_never_opened(folder: Path, name: str, tmp_path: Path) -> None:
    witness = tmp_path / "executed"
    for payload in (pickle.dumps(Bomb(witness)), None):
        if payload is None:
            torch.save(Bomb(witness), folder / name)
        else:
            (folder / name).write_bytes(payload)
        if name == "pytorch_model.bin":
            load(folder)
        else:
            with pytest.raises(ModelError):
                load(folder)
    assert not witness.exists()
    pickle.loads((folder / name).read_bytes() if payload else pickle.dumps(Bomb(witness)))
    assert witness.exists(), "the pickle would have been noticed"

"""Trax weights, laid out as Trax lays them out by a writer of the test's own."""

import dataclasses
import gzip
import pickle

import numpy as np
import pytest
import torch

from reformer import LSH, Local, ReformerConfig, ReformerForCausalLM
from reformer.interop import trax
from reformer.interop.errors import ConversionError

CONFIG = ReformerConfig(
    vocab_size=21, hidden_size=12, feed_forward_size=20, num_heads=3, head_size=4, max_length=32,
    layers=(Local(8, rule="chunk"), LSH(2, 8, (2, 4), rule="chunk"), Local(8, rule="chunk")),
    axial_shape=(4, 8), axial_sizes=(4, 8), activation="relu", init_scale=0.5,
)  # fmt: skip
EMPTY = ()


def _numbers(state, name):
    return state[name].numpy()


def _dense(state, name):
    return (_numbers(state, f"{name}.weight").T, _numbers(state, f"{name}.bias"))


def _norm(state, name):
    return (_numbers(state, f"{name}.weight"), _numbers(state, f"{name}.bias"))


def _into_heads(state, name):
    """[H * K, D] to [H, D, K]."""
    return _numbers(state, name).reshape(3, 4, 12).transpose(0, 2, 1)


def trax_weights(model, chunked):
    """The model's weights, nested as Trax nests those of ReformerLM."""
    state = model.state_dict()
    layers = []
    for index, layer in enumerate(model.config.layers):
        block = f"reformer.blocks.{index}"
        kinds = ("query_key",) if isinstance(layer, LSH) else ("query", "key")
        attention = [_into_heads(state, f"{block}.attention.{k}.weight") for k in (*kinds, "value")]
        out = _numbers(state, f"{block}.attention.output.weight").T.reshape(3, 4, 12)
        inner = [
            _norm(state, f"{block}.feed_forward_norm"),
            _dense(state, f"{block}.feed_forward.inner"),
            EMPTY, EMPTY, _dense(state, f"{block}.feed_forward.output"), EMPTY,
        ]  # fmt: skip
        if chunked:
            inner = [EMPTY, EMPTY, inner, EMPTY]
        layers += [
            ([_norm(state, f"{block}.attention_norm")], (*attention, out)),
            EMPTY,
            ((EMPTY, (EMPTY, EMPTY, inner)),),
            EMPTY,
        ]
    tables = []
    for axis, shape in enumerate(((1, 4, 1, 4), (1, 1, 8, 8))):
        tables.append(
            (_numbers(state, f"reformer.embedding.positions.tables.{axis}").reshape(shape),)
        )
    return [
        EMPTY, _numbers(state, "reformer.embedding.tokens.weight"), EMPTY, tuple(tables), EMPTY,
        layers, EMPTY, _norm(state, "reformer.norm"), EMPTY, _dense(state, "head"),
    ]  # fmt: skip


def _model():
    model = ReformerForCausalLM(CONFIG).eval()
    with torch.no_grad():
        model.head.bias += torch.arange(21) / 10
    return model


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("packed", [False, True])
def test_weights_are_read(chunked, protocol, packed, tmp_path):
    model = _model()
    data = pickle.dumps({"step": np.int32(7), "weights": trax_weights(model, chunked)}, protocol)
    path = tmp_path / "model.pkl"
    path.write_bytes(gzip.compress(data) if packed else data)
    found = trax.load(path, CONFIG)
    for name, tensor in model.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name
    ids = torch.arange(20)[None]
    assert torch.equal(found(ids).logits, model(ids).logits)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"layers": CONFIG.layers[:2]}, "3 layers"),
        ({"layers": CONFIG.layers[:1] * 3}, "an LSH layer has 3"),
        ({"feed_forward_size": 8}, "feed_forward.inner.weight"),
        ({"vocab_size": 22}, "embedding.tokens"),
        ({"axial_shape": (8, 4)}, "axial_shape"),
    ],
)
def test_a_configuration_for_other_weights_is_named(changes, named):
    weights = trax_weights(_model(), chunked=True)
    with pytest.raises(ConversionError, match=named):
        trax.from_weights(weights, dataclasses.replace(CONFIG, **changes))


def test_files_that_hold_something_else_are_named(tmp_path):
    path = tmp_path / "model.pkl"
    with pytest.raises(ConversionError, match="cannot read"):
        trax.load(path, CONFIG)
    for value in ({"flat": 1}, [1], {"weights": 3}, {"weights": [[], np.zeros(3)]}):
        path.write_bytes(pickle.dumps(value))
        with pytest.raises(ConversionError):
            trax.load(path, CONFIG)
    path.write_bytes(gzip.compress(bytes(10_000)))
    with pytest.raises(ConversionError, match="more than 1000"):
        trax.load(path, CONFIG, largest=1000)
    path.write_bytes(gzip.compress(np.random.default_rng(0).bytes(100))[:60])
    with pytest.raises(ConversionError, match="cannot read"):
        trax.load(path, CONFIG)

"""Whole layers on the native kernel: the torch path's logits, and bits that nothing changes."""

import dataclasses

import pytest
import torch

from reformer.generation.extend import extend, extend_all, new_cache
from reformer.nn import append, native_block
from reformer.nn.cache import CacheError
from reformer.nn.streams import StreamRangeError
from reformer.ops import append_layer as op
from reformer.ops.dispatch import use_backend

from .models import LAYERS, make_model, random_ids, whole_logits

pytestmark = pytest.mark.skipif(
    op.refusal(torch.zeros(1)) is not None, reason="there are no kernels here"
)


@pytest.fixture
def calls(monkeypatch):
    """How many tokens each native layer was given."""
    counted = []

    def watched(first, *rest):
        counted.append(len(first))
        return op.append_layer(first, *rest)

    monkeypatch.setattr(append, "append_layer", watched)
    return counted


@pytest.mark.parametrize("activation", ["gelu", "relu"])
@pytest.mark.parametrize("layers", LAYERS.values(), ids=LAYERS)
def test_logits_are_those_of_the_torch_path(layers, activation, calls):
    # Sizes that are no multiple of a vector's width, or of four.
    model = make_model(
        layers, torch.float32, init_scale=0.02, activation=activation,
        hidden_size=27, feed_forward_size=37, head_size=10, num_heads=3,
    )  # fmt: skip
    ids = random_ids(90)
    portions = [ids[:1], ids[1:33], ids[33:36], ids[36:68], ids[68:90]]
    cache, plain = new_cache(model), new_cache(model)
    native = torch.cat([extend_all(model, [part], cache)[0] for part in portions])
    assert calls == [len(part) for part in portions for _ in layers]
    with use_backend("torch"):
        torch_path = torch.cat([extend_all(model, [part], plain)[0] for part in portions])
    assert len(calls) == len(portions) * len(layers)
    torch.testing.assert_close(native, torch_path, rtol=0, atol=1e-5)
    torch.testing.assert_close(native, whole_logits(model, ids), rtol=0, atol=1e-5)


def test_a_tokens_bits_depend_on_nothing_but_what_it_sees():
    model = make_model(LAYERS["mixed"], torch.float32, hidden_size=64, feed_forward_size=96)
    ids, other = random_ids(64, 1), random_ids(64, 2)

    def hidden(portion, threads, beside):
        torch.set_num_threads(threads)
        try:
            cache = new_cache(model, 1 + len(beside))
            parts = []
            for start in range(0, 64, portion):
                rows = [ids[start : start + portion]] + [x[start : start + portion] for x in beside]
                parts.append(model.reformer.append(rows, cache)[: len(rows[0])])
            return torch.cat(parts)
        finally:
            torch.set_num_threads(1)

    alone = hidden(1, 1, [])
    for portion, threads, beside in (
        (32, 1, []),
        (32, 2, []),
        (8, 2, [other]),
        (5, 1, [other] * 3),
    ):
        assert torch.equal(hidden(portion, threads, beside), alone)


def test_what_the_streams_cannot_hold_is_an_error_that_changes_nothing(calls):
    model = make_model(LAYERS["mixed"], torch.float32)
    ids = random_ids(20)
    cache = new_cache(model)
    extend(model, [ids], cache)
    for name, where in (("attention", "attention"), ("feed_forward", "feed_forward")):
        weight = getattr(model.reformer.blocks[2], name).output.weight
        kept = weight.data.clone()
        for bad in (1e30, float("nan")):
            weight.data.fill_(bad)
            with pytest.raises(StreamRangeError, match=f"{where} of layer 2"):
                extend(model, [[1, 2, 3]], cache)
        weight.data.copy_(kept)
    assert cache.lengths == [20]
    got = extend(model, [[4]], cache)[0]
    torch.testing.assert_close(got, whole_logits(model, [*ids, 4])[-1], rtol=1e-4, atol=1e-4)
    assert calls


def test_hooks_and_other_kinds_of_layers_take_the_torch_path(calls):
    model = make_model(LAYERS["local"], torch.float32)
    seen = []
    block = model.reformer.blocks[0]
    handle = block.feed_forward.register_forward_hook(lambda *_: seen.append(1))
    extend(model, [[1, 2]], new_cache(model))
    assert seen == [1]
    assert calls == []
    handle.remove()
    block.attention.value = torch.nn.Sequential(block.attention.value)
    with pytest.raises(AttributeError):
        block.attention.value.weight  # noqa: B018
    extend(model, [[1, 2]], new_cache(model))
    assert calls == []


def test_weights_that_are_replaced_moved_or_transposed_are_noticed(calls):
    model = make_model(LAYERS["mixed"], torch.float32)
    ids = random_ids(12)

    def check(is_native):
        calls.clear()
        got = extend_all(model, [ids], new_cache(model))[0]
        torch.testing.assert_close(got, whole_logits(model, ids), rtol=1e-4, atol=1e-4)
        assert bool(calls) == is_native

    check(is_native=True)
    inner = model.reformer.blocks[1].feed_forward.inner
    inner.weight = torch.nn.Parameter(-inner.weight)
    check(is_native=True)
    inner.weight.data = 2 * inner.weight.data
    check(is_native=True)
    attention = model.reformer.blocks[1].attention
    attention.value = torch.nn.Linear(24, 16, bias=False)
    check(is_native=True)
    attention.layer = dataclasses.replace(attention.layer, score_scale=0.5)
    check(is_native=True)
    inner.weight.data = inner.weight.data.t().contiguous().t()
    check(is_native=False)
    inner.weight.data = inner.weight.data.contiguous()
    check(is_native=True)
    handle = attention.value.register_forward_hook(lambda *_: None)
    check(is_native=False)
    handle.remove()
    check(is_native=True)


def test_a_cache_of_another_model_is_refused():
    model = make_model(LAYERS["mixed"], torch.float32)
    for other in (
        make_model(LAYERS["local"], torch.float32),
        make_model(LAYERS["mixed"], torch.float32, head_size=10),
    ):
        with pytest.raises(CacheError, match="was made for a model whose"):
            extend(model, [[1, 2]], new_cache(other))
    twin = make_model(LAYERS["mixed"], torch.float32)
    extend(model, [[1, 2]], new_cache(twin))


@pytest.mark.parametrize("hooked", [False, True])
def test_a_block_is_looked_through_once_and_not_for_every_token(monkeypatch, hooked):
    model = make_model(LAYERS["mixed"], torch.float32)
    if hooked:
        model.reformer.blocks[1].feed_forward.register_forward_hook(lambda *_: None)
    looked = []

    def watched(block):
        looked.append(block)
        return look_through(block)

    look_through = native_block._look_through
    monkeypatch.setattr(native_block, "_look_through", watched)
    cache = new_cache(model)
    for token in range(3):
        extend(model, [[token]], cache)
    assert len(looked) == len(model.reformer.blocks)

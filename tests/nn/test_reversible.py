"""The reversible stack against stored activations and against plain residual maths."""

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from reformer.config import LSH, Full, Local
from reformer.models.initialize import initialize
from reformer.models.language import ReformerForCausalLM
from reformer.models.reformer import Reformer
from tests.models.small import (
    LENGTH,
    assert_near,
    assert_same_bits,
    gradients,
    loss_gradients,
    small_config,
    small_model,
    tokens,
    without_dropout,
)
from tests.nn.plain import plain_logits


def gradients_with(
    streams: str, depth: int, weight_scale: float, autocast: bool, **values: object
) -> list[Tensor]:
    model = small_model(small_config(depth, streams=streams, **values), weight_scale=weight_scale)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        return loss_gradients(model, tokens(), draw=1)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("weight_scale", [1.0, 3.0])
@pytest.mark.parametrize("depth", [2, 12, 48])
def test_rebuilt_activations_give_the_very_gradients_of_stored_ones(
    depth: int, weight_scale: float, autocast: bool
) -> None:
    """Bit for bit, with dropout, at any depth."""
    found = gradients_with("exact", depth, weight_scale, autocast)
    assert_same_bits(found, gradients_with("stored", depth, weight_scale, autocast))
    assert all(gradient.abs().max() > 0 for gradient in found)


EVERY_KIND = (
    Full(),
    Full(rotary_base=100.0, dropout=0.1),
    Local(window_length=8, rule="chunk", chunks_after=1),
    LSH(window_length=8, rule="chunk", dropout=0.1),
    Local(window_length=5, rotary_base=100.0),
    LSH(window_length=5, num_buckets=(2, 4), score_scale=0.5),
)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("packed", [True, False])
def test_every_kind_of_layer_is_rebuilt_exactly(autocast: bool, causal: bool, packed: bool) -> None:
    segments = torch.tensor([[0] * 30 + [1] * 18, [2] * 40 + [-1] * 8]) if packed else None
    found = []
    for streams in ("exact", "stored"):
        config = small_config(
            streams=streams, layers=EVERY_KIND, causal=causal, dropout_shared=True, init_scale=0.2
        )
        trunk = Reformer(config)
        initialize(trunk, config)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            hidden = trunk(tokens(), segment_ids=segments, draw=3)
        hidden.square().sum().backward()
        grads = [p.grad for p in trunk.parameters() if p.grad is not None]
        found.append([hidden.detach(), *grads])
    assert len(found[0]) == 1 + sum(1 for _ in trunk.parameters()) - 2, "all but the head's norm"
    assert_same_bits(*found)


@pytest.mark.slow
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_rebuilt_activations_are_exact_at_depth_96_too(seed: int, autocast: bool) -> None:
    for shared in (False, True):
        settings = {"seed": seed, "dropout_shared": shared}
        assert_same_bits(
            gradients_with("exact", 96, 3.0, autocast, **settings),
            gradients_with("stored", 96, 3.0, autocast, **settings),
        )


def test_float_streams_are_where_exactness_is_lost() -> None:
    """The comparison that makes the test above mean something."""
    stored = gradients_with("stored", 48, 3.0, False)
    drifted = gradients_with("float", 48, 3.0, False)
    differing = [not torch.equal(a, b) for a, b in zip(drifted, stored, strict=True)]
    assert sum(differing) > len(differing) / 2


@pytest.mark.parametrize("streams", ["exact", "float", "stored"])
@pytest.mark.parametrize("packed", [False, True])
def test_loss_logits_and_gradients_are_those_of_plain_residual_maths(
    streams: str, packed: bool
) -> None:
    config = small_config(streams=streams, **without_dropout(rotary=True, full=True))
    model = small_model(config).double().eval()
    input_ids = tokens()
    segments = torch.tensor([[0] * 30 + [1] * 18, [2] * 40 + [-1] * 8]) if packed else None
    targets = input_ids.roll(-1, dims=1)
    targets[:, -1] = -100
    if segments is not None:
        ends = (segments != segments.roll(-1, dims=1)) | (segments < 0)
        targets[ends] = -100
    parameters = dict(model.named_parameters())
    logits = plain_logits(config, parameters, input_ids, segments)
    expected = functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    wanted = torch.autograd.grad(expected, list(parameters.values()))
    model(input_ids, labels=input_ids, segment_ids=segments).loss.backward()
    assert_near([model(input_ids, segment_ids=segments).logits], [logits], 1e-10)
    loss = model(input_ids, labels=input_ids, segment_ids=segments).loss
    assert_near([loss, *gradients(model)], [expected, *wanted], 1e-9)


class LiveStorages(TorchDispatchMode):
    """Remembers every storage that operations return, but the model's, keeping none alive."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.found: dict[int, tuple[StorageWeakRef, int]] = {}
        self.owned = {StorageWeakRef(p.untyped_storage()).cdata for p in model.parameters()}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                reference = StorageWeakRef(storage)
                if reference.cdata not in self.owned:
                    self.found[reference.cdata] = (reference, storage.nbytes())
        return result

    def held_bytes(self) -> int:
        return sum(size for reference, size in self.found.values() if not reference.expired())


def bytes_held_after_the_forward(depth: int, streams: str) -> int:
    model = small_model(small_config(depth, streams=streams))
    input_ids = tokens()
    with LiveStorages(model) as storages:
        output = model(input_ids, labels=input_ids, draw=0)
    held = storages.held_bytes()
    output.loss.backward()
    return held


def test_memory_held_after_the_forward_grows_by_the_buckets_alone() -> None:
    """Per LSH layer B * H * R * L bytes of buckets; per local layer nothing."""
    shallow, deep = (bytes_held_after_the_forward(depth, "exact") for depth in (4, 24))
    lsh_layers_more = 10
    assert deep - shallow <= lsh_layers_more * 2 * 2 * 2 * LENGTH
    assert deep - shallow > 0
    stored = [bytes_held_after_the_forward(depth, "stored") for depth in (4, 24)]
    one_activation = 2 * LENGTH * 16 * 4
    assert stored[1] - stored[0] > 20 * one_activation, "the measure must see what is stored"


@pytest.fixture
def model() -> ReformerForCausalLM:
    return small_model(small_config(4))


def test_two_forwards_then_the_backward_of_the_first(model: ReformerForCausalLM) -> None:
    first, second = tokens(seed=1), tokens(seed=2, length=30)
    expected_first = loss_gradients(model, first, draw=1)
    expected_second = loss_gradients(model, second, draw=2)
    model.zero_grad()
    losses = [model(ids, labels=ids, draw=d).loss for ids, d in ((first, 1), (second, 2))]
    losses[0].backward()
    assert_same_bits([losses[0].detach(), *gradients(model)], expected_first)
    model.zero_grad()
    losses[1].backward()
    assert_same_bits([losses[1].detach(), *gradients(model)], expected_second)


def test_the_backward_may_run_outside_autocast_or_in_evaluation_mode(
    model: ReformerForCausalLM,
) -> None:
    input_ids = tokens()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = loss_gradients(model, input_ids, draw=1)
        model.zero_grad()
        loss = model(input_ids, labels=input_ids, draw=1).loss
    model.eval()
    loss.backward()
    assert_same_bits([loss.detach(), *gradients(model)], expected)
    model.train()
    plain = loss_gradients(model, input_ids, draw=1)
    assert not torch.equal(plain[0], expected[0]), "autocast must have had an effect"


def test_a_second_backward_says_what_to_do(model: ReformerForCausalLM) -> None:
    hidden = model.reformer(tokens(), draw=0)
    hidden.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="run the model again for a second backward"):
        hidden.sum().backward()


def test_gradients_add_up_over_several_backwards(model: ReformerForCausalLM) -> None:
    batches = [tokens(seed=seed) for seed in (1, 2)]
    parts = [loss_gradients(model, ids, draw=d)[1:] for d, ids in enumerate(batches)]
    model.zero_grad()
    for draw, ids in enumerate(batches):
        model(ids, labels=ids, draw=draw).loss.backward()
    assert_near(gradients(model), [a + b for a, b in zip(*parts, strict=True)], 1e-6)


@pytest.mark.parametrize(("streams", "calls"), [("exact", 2), ("float", 2), ("stored", 1)])
def test_module_hooks_see_every_computation_of_their_module(streams: str, calls: int) -> None:
    model = small_model(small_config(2, streams=streams))
    seen: list[tuple[str, str]] = []
    inner: list[nn.Module] = [
        model.reformer.blocks[1],
        model.reformer.blocks[1].attention,
        model.reformer.blocks[1].attention.value,
    ]
    for module in inner:
        name = type(module).__name__
        module.register_forward_hook(lambda *_, name=name: seen.append((name, "forward")))
        module.register_full_backward_hook(lambda *_, name=name: seen.append((name, "backward")))
    model(tokens(), labels=tokens(), draw=0).loss.backward()
    # A block is called once for each of its two branches.
    expected = {"ReversibleBlock": 2, "LSHSelfAttention": 1, "Linear": 1}
    for name, branches in expected.items():
        assert seen.count((name, "forward")) == branches * calls
        assert seen.count((name, "backward")) == branches


@pytest.mark.parametrize("streams", ["exact", "float"])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_slices_of_the_feed_forward_are_rebuilt_and_differentiated_in_one_pass(
    streams: str, dropout: float
) -> None:
    model = small_model(small_config(2, streams=streams, dropout=dropout, slice_length=LENGTH))
    feed_forward = model.reformer.blocks[0].feed_forward
    computed: list[int] = []
    feed_forward.inner.register_forward_hook(lambda _, x, y: computed.append(len(y)))
    model(tokens(), labels=tokens(), draw=0).loss.backward()
    assert computed == [LENGTH] * 2 * tokens().shape[0], "once forward, once backward"


def test_a_hook_that_changes_a_gradient_is_heard_by_sliced_layers() -> None:
    found = []
    for slice_length in (7, 1000):
        model = small_model(small_config(2, streams="exact", slice_length=slice_length))
        for block in model.reformer.blocks:
            block.feed_forward.register_forward_hook(lambda _, x, y: 2 * y)
        found.append(loss_gradients(model, tokens(), draw=1))
    assert_near(*found, 1e-5)


def test_frozen_layers_and_embeddings_get_no_gradient_and_change_no_other(
    model: ReformerForCausalLM,
) -> None:
    expected = dict(
        zip(dict(model.named_parameters()), loss_gradients(model, tokens())[1:], strict=True)
    )
    for frozen in (model.reformer.embedding, model.reformer.blocks[1]):
        frozen.requires_grad_(False)
    model.zero_grad()
    model(tokens(), labels=tokens(), draw=0).loss.backward()
    for name, parameter in model.named_parameters():
        if name.startswith(("reformer.embedding.", "reformer.blocks.1.")):
            assert parameter.grad is None
        else:
            assert torch.equal(parameter.grad, expected[name])


def test_without_gradients_nothing_is_kept_and_the_numbers_are_the_same(
    model: ReformerForCausalLM,
) -> None:
    input_ids = tokens()
    with torch.no_grad():
        silent = model(input_ids, labels=input_ids, draw=0).loss
    loss = model(input_ids, labels=input_ids, draw=0).loss
    assert not silent.requires_grad
    assert torch.equal(silent, loss.detach())


@pytest.mark.parametrize("layer", [LSH(window_length=4), Local(window_length=4)])
def test_a_stream_out_of_range_is_an_error_that_names_the_layer(layer: LSH | Local) -> None:
    model = small_model(small_config(layers=(layer,), dropout=0.0))
    with torch.no_grad():
        model.reformer.blocks[0].feed_forward.output.bias.fill_(3000.0)
    with pytest.raises(ArithmeticError, match="the feed_forward of layer 0 reaches"):
        model(tokens())


def test_the_gradient_of_the_output_is_read_and_not_changed() -> None:
    """It may belong to others, and hooks on the output see it as it is."""
    trunk = small_model(small_config(depth=2)).reformer
    seen: list[Tensor] = []
    hidden = trunk(tokens())
    hidden.retain_grad()
    hidden.register_hook(seen.append)
    upstream = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(0))
    before = upstream.clone()
    hidden.backward(upstream)
    for found in (upstream, hidden.grad, *seen):
        assert torch.equal(found, before)
    first, *_ = trunk.parameters()
    assert first.grad is not None and first.grad.abs().max() > 0

"""Encoder and decoder against plain residual maths: loss, gradients, memory, padding, decoding."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from reformer import (
    LSH,
    ConfigError,
    Full,
    Local,
    ReformerConfig,
    ReformerEncoderDecoder,
    ReformerForCausalLM,
)
from reformer.generation.extend import extend_all, new_cache
from reformer.models.encoder_decoder import encoder_config
from reformer.nn.cache import CacheError
from tests.models.small import assert_near, assert_same_bits, gradients, small_config, tokens
from tests.nn.plain import attention, embed, linear, norm
from tests.nn.test_reversible import LiveStorages
from tests.ops.largest_tensor import LargestTensor

PLAIN = {
    "layers": (LSH(window_length=8), Local(8, rotary_base=100.0), Full()),
    "encoder_layers": (Local(8), LSH(num_hashes=2, window_length=6), Full()),
    "dropout": 0.0,
}  # fmt: skip
WITH_DROPOUT = {
    "layers": (LSH(window_length=8, dropout=0.1), Local(8), Full(dropout=0.1)),
    "encoder_layers": (Local(8, dropout=0.1), LSH(num_hashes=2, window_length=6)),
    "dropout": 0.1,
}  # fmt: skip
SOURCE, TARGET = 37, 29


def make(config: ReformerConfig, *, sharp: bool = True) -> ReformerEncoderDecoder:
    """A model whose attention and predictions are far from uniform."""
    model = ReformerEncoderDecoder(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if sharp and ("embedding" in name or name == "head.weight"):
                parameter.mul_(10.0)
            if (
                sharp
                and "cross_attention" in name
                and name.endswith(("query.weight", "key.weight"))
            ):
                parameter.mul_(2.0)
    return model.train()


def a_batch() -> dict[str, Tensor]:
    """Two pairs; the second source and the second target are shorter."""
    source, target = tokens(length=SOURCE, seed=1), tokens(length=TARGET, seed=2)
    segments, labels = torch.zeros_like(source), target.clone()
    segments[1, 30:], labels[1, 20:] = -1, -100
    return {
        "input_ids": source, "target_ids": target, "labels": labels, "segment_ids": segments
    }  # fmt: skip


def loss_gradients(model: ReformerEncoderDecoder, draw: int = 0) -> list[Tensor]:
    model.zero_grad()
    loss = model(**a_batch(), draw=draw).loss
    loss.backward()
    return [loss.detach(), *gradients(model)]


# ------------------------------------------------------------------ the plain model


def plain_stack(
    config: ReformerConfig,
    p: dict[str, Tensor],
    prefix: str,
    x: Tensor,
    segment_ids: Tensor | None,
    memory: Tensor | None = None,
    is_token: Tensor | None = None,
) -> Tensor:
    streams = [x, x]
    place = 0

    def add(out: Tensor) -> None:
        nonlocal place
        streams[place % 2] = streams[place % 2] + out
        place += 1

    for index in range(len(config.layers)):
        start = f"reformer.{prefix}.{index}."
        block = {n.removeprefix(start): t for n, t in p.items() if n.startswith(start)}

        def normed(name: str, block: dict[str, Tensor] = block) -> Tensor:
            return norm(config, block, f"{name}_norm", streams[(place + 1) % 2])

        add(attention(config, block, index, normed("attention"), segment_ids))
        if memory is not None:
            add(plain_cross_attention(config, block, normed("cross_attention"), memory, is_token))
        inner = functional.gelu(linear(block, "feed_forward.inner", normed("feed_forward")))
        add(linear(block, "feed_forward.output", inner))
    return torch.cat(streams, dim=-1)


def plain_cross_attention(
    config: ReformerConfig, p: dict[str, Tensor], x: Tensor, memory: Tensor, is_token: Tensor
) -> Tensor:
    def heads(name: str, of: Tensor) -> Tensor:
        flat = linear(p, f"cross_attention.{name}", of)
        return flat.view(*of.shape[:2], config.num_heads, config.head_size).transpose(1, 2)

    query, key, value = heads("query", x), heads("key", memory), heads("value", memory)
    scores = query @ key.transpose(-1, -2) / config.head_size**0.5
    scores = scores.masked_fill(~is_token[:, None, None], -torch.inf)
    out = scores.softmax(dim=-1) @ value
    return linear(p, "cross_attention.output", out.transpose(1, 2).flatten(2))


def plain_logits(config: ReformerConfig, p: dict[str, Tensor], batch: dict[str, Tensor]) -> Tensor:
    """Embed both, encode, decode; every activation kept by autograd."""
    source, segments, target = (batch[n] for n in ("input_ids", "segment_ids", "target_ids"))
    top = {name.removeprefix("reformer."): tensor for name, tensor in p.items()}
    of_encoder = encoder_config(config)
    # The oracle for bidirectional layers is the definition in one call, as for causal ones.
    hidden = plain_stack(of_encoder, p, "encoder", embed(config, p, source), segments)
    memory = norm(config, top, "encoder_norm", hidden)
    start = torch.full_like(target[:, :1], config.vocab_size - 1)
    read = torch.cat([start, target[:, :-1]], dim=1)
    hidden = plain_stack(config, p, "blocks", embed(config, p, read), None, memory, segments >= 0)
    return linear(p, "head", norm(config, top, "norm", hidden))


@pytest.mark.parametrize("streams", ["exact", "float", "stored"])
def test_loss_logits_and_gradients_are_those_of_plain_residual_maths(streams: str) -> None:
    config = small_config(streams=streams, **PLAIN)
    model = make(config).double()
    batch = a_batch()
    logits = plain_logits(config, dict(model.named_parameters()), batch)
    expected = functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())
    wanted = torch.autograd.grad(expected, list(model.parameters()))
    model.eval()
    found = model(batch["input_ids"], batch["target_ids"], segment_ids=batch["segment_ids"])
    assert_near([found.logits], [logits], 1e-10)
    loss = model(**batch).loss
    loss.backward()
    assert_near([loss, *gradients(model)], [expected, *wanted], 1e-8)


# ------------------------------------------------------------------ exact, in constant memory


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("depth", [1, 6])
def test_rebuilt_activations_give_the_very_gradients_of_stored_ones(
    depth: int, autocast: bool
) -> None:
    found = []
    for streams in ("exact", "stored"):
        layers = {name: value * depth for name, value in WITH_DROPOUT.items() if "layers" in name}
        model = make(small_config(streams=streams, **(WITH_DROPOUT | layers)))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            found.append(loss_gradients(model, draw=1))
    assert_same_bits(*found)
    assert all(gradient.abs().max() > 0 for gradient in found[0])


def test_the_encoder_runs_backward_once_whatever_the_decoders_depth() -> None:
    model = make(small_config(**{**PLAIN, "layers": (Local(8),) * 5}))
    calls: list[str] = []
    for name, module in (
        ("encoder", model.reformer.encoder[1].attention),
        ("decoder", model.reformer.blocks[1].cross_attention),
    ):
        module.register_forward_hook(lambda *_, name=name: calls.append(f"{name} forward"))
        module.register_full_backward_hook(lambda *_, name=name: calls.append(f"{name} backward"))
    model(**a_batch()).loss.backward()
    assert sorted(calls) == sorted(
        f"{name} {way}"
        for name in ("encoder", "decoder")
        for way in ("forward", "forward", "backward")
    )


def held_and_peak(depth: int, streams: str = "exact") -> tuple[int, int]:
    """Bytes held between forward and backward, and elements of the largest tensor of the step."""
    config = small_config(
        streams=streams, layers=(Local(8),) * depth, encoder_layers=(Local(8),) * depth
    )
    model = make(config)
    with LargestTensor() as largest, LiveStorages(model) as storages:
        loss = model(**a_batch(), draw=0).loss
        held = storages.held_bytes()
        loss.backward()
    return held, largest.elements


def test_memory_does_not_grow_with_depth_on_either_side() -> None:
    shallow, deep = held_and_peak(2), held_and_peak(12)
    assert deep == shallow
    assert held_and_peak(12, "stored")[0] > 5 * held_and_peak(2, "stored")[0] / 2 > shallow[0]


def test_no_matrix_of_target_by_source_is_made() -> None:
    length = 512
    config = small_config(
        layers=(Local(8),), encoder_layers=(Local(8),), max_length=length, dropout=0.0
    )
    model = make(config)
    source, target = tokens(1, length, 1), tokens(1, length, 2)
    segments = torch.zeros_like(source)
    segments[:, -3:] = -1
    with LargestTensor() as largest:
        model(source, target, target, segment_ids=segments).loss.backward()
    assert largest.elements < length * length / 4


# ------------------------------------------------------------------ what sees what


@pytest.fixture
def model() -> ReformerEncoderDecoder:
    return make(small_config(**PLAIN)).double().eval()


@torch.no_grad()
def test_padding_changes_nothing(model: ReformerEncoderDecoder) -> None:
    batch = a_batch()
    together = model(batch["input_ids"], batch["target_ids"], segment_ids=batch["segment_ids"])
    for row, (source, target) in enumerate(((SOURCE, TARGET), (30, 20))):
        ids = (
            batch["input_ids"][row : row + 1, :source],
            batch["target_ids"][row : row + 1, :target],
        )
        assert_near([together.logits[row : row + 1, :target]], [model(*ids).logits], 1e-10)
    alone = batch["labels"][1:, :20]
    whole = model(**batch).loss * (TARGET + 20)
    parts = (
        model(batch["input_ids"][:1], batch["target_ids"][:1], batch["labels"][:1]).loss * TARGET
    )
    parts = parts + model(batch["input_ids"][1:, :30], alone, alone).loss * 20
    assert_near([whole], [parts], 1e-10)


@torch.no_grad()
def test_a_prediction_depends_on_the_whole_source_and_the_targets_past(
    model: ReformerEncoderDecoder,
) -> None:
    source, target = tokens(1, SOURCE, 1), tokens(1, TARGET, 2)
    logits = model(source, target).logits
    changed = target.clone()
    changed[:, 10:] = 0
    assert torch.equal(model(source, changed).logits[:, :11], logits[:, :11])
    assert (model(source, changed).logits[:, 11:] - logits[:, 11:]).abs().max() > 1e-3
    for place in (0, SOURCE - 1):
        other = source.clone()
        other[:, place] = (other[:, place] + 1) % 31
        assert (model(other, target).logits - logits).abs().amax(-1).min() > 1e-6


# ------------------------------------------------------------------ decoding


@pytest.mark.parametrize("layers", [(LSH(window_length=8),), (Local(8, rotary_base=10.0), Full())])
def test_cached_decoding_is_the_whole_forward_at_every_position(layers: Any) -> None:
    model = make(small_config(**(PLAIN | {"layers": layers}))).double().eval()
    sources = [tokens(1, length, length)[0].tolist() for length in (1, SOURCE, 12)]
    targets = [tokens(1, length, length)[0].tolist() for length in (17, 4, TARGET)]
    cache = new_cache(model, 3)
    for row, source in zip(cache.rows, sources, strict=True):
        row.memory = model.reformer.remember(source)
    read = [[model.mark, *target[:-1]] for target in targets]
    parts: list[list[Tensor]] = [[], [], []]
    for start in range(0, TARGET, 3):
        for row, logits in enumerate(
            extend_all(model, [ids[start : start + 3] for ids in read], cache)
        ):
            parts[row].append(logits)
    for source, target, found in zip(sources, targets, parts, strict=True):
        whole = model(torch.tensor([source]), torch.tensor([target])).logits[0]
        assert_near([torch.cat(found)], [whole], 1e-10)


def test_forks_share_a_memory_and_a_row_without_one_is_an_error(
    model: ReformerEncoderDecoder,
) -> None:
    cache = new_cache(model)
    with pytest.raises(CacheError, match="a row has no memory"):
        extend_all(model, [[model.mark]], cache)
    assert cache.lengths == [0]
    before = cache.num_bytes
    cache.rows[0].memory = model.reformer.remember([1, 2, 3])
    assert cache.num_bytes > before
    assert cache.fork(2).rows[1].memory is cache.rows[0].memory


# ------------------------------------------------------------------ on disk, and what is refused


def test_a_saved_model_is_the_same(model: ReformerEncoderDecoder, tmp_path: Any) -> None:
    model.float().save_pretrained(tmp_path)
    same = ReformerEncoderDecoder.from_pretrained(tmp_path)
    assert same.config == model.config
    batch = a_batch()
    assert torch.equal(
        same(batch["input_ids"], batch["target_ids"]).logits,
        model(batch["input_ids"], batch["target_ids"]).logits,
    )
    rehashed = ReformerEncoderDecoder.from_pretrained(tmp_path, num_hashes=7).config
    assert rehashed.layers[0].num_hashes == rehashed.encoder_layers[1].num_hashes == 7


def test_what_cannot_work_is_refused(model: ReformerEncoderDecoder) -> None:
    source, target = tokens(2, 5), tokens(2, 4)
    with pytest.raises(ConfigError, match="encoder_layers is None"):
        ReformerEncoderDecoder(small_config())
    with pytest.raises(ConfigError, match="ReformerForCausalLM has no encoder"):
        ReformerForCausalLM(small_config(**PLAIN))
    with pytest.raises(ConfigError, match="causal is False"):
        ReformerEncoderDecoder(small_config(**PLAIN, causal=False))
    with pytest.raises(ConfigError, match="encoder_layers is .*: it must be a tuple"):
        small_config(encoder_layers=())
    with pytest.raises(ValueError, match="2 sources and 1 targets"):
        model(source, target[:1])
    with pytest.raises(ValueError, match="nothing but padding"):
        model(source, target, segment_ids=torch.tensor([[0] * 5, [-1] * 5]))
    with pytest.raises(ValueError, match="takes from 1 to max_length = 64"):
        model(tokens(2, 65), target)
    with pytest.raises(ValueError, match="labels is"):
        model(source, target, target[:, :2])

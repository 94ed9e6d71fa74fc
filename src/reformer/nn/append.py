"""The stack in decoding: the same layers and streams, on new tokens of cached sequences."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from reformer.nn.attention import FullSelfAttention, LSHSelfAttention
from reformer.nn.cache import DecodeCache, LayerGrowth, LayerHashing
from reformer.nn.reversible import ReversibleBlock, steps
from reformer.nn.streams import ExactStreams, FloatStreams, StreamRangeError, Streams
from reformer.ops.append_layer import (
    ATTENTION_OUT_OF_RANGE,
    MOST_TOKENS,
    LayerTensors,
    append_layer,
    refusal,
)
from reformer.ops.positions import rotary_angles


def append_to_stack(
    x: Tensor,
    blocks: Sequence[ReversibleBlock],
    cache: DecodeCache,
    counts: Sequence[int],
    positions: Tensor,
    kind: Literal["exact", "float", "stored"],
) -> Tensor:
    """Run the blocks on new tokens x [T, D], packed by rows; returns [T, 2 D].

    counts: new tokens of each of the cache's rows; positions: int64 [T]. Layers' stores grow.
    The streams are those of ``reversible_stack``, so the sums are rounded in the same places.
    """
    if kind != "float" and len(x) <= MOST_TOKENS and all(map(_is_plain, blocks)):
        return _append_natively(x, blocks, cache, counts, positions)
    streams: Streams = FloatStreams(x.dtype) if kind == "float" else ExactStreams(x.dtype)
    pair = streams.open(x), streams.open(x)
    for layer, branch, source, target in steps(blocks):
        sequences = [row.layers[layer] for row in cache.rows]
        memories = [row.memory[layer] for row in cache.rows if row.memory]
        growth = LayerGrowth(sequences, counts, positions, cache.hashing[layer], memories)
        out = blocks[layer].append(streams.read(pair[source]), branch, growth)
        streams.add(pair[target], out, f"the {branch} of layer {layer}")
    return torch.cat([streams.read(stream) for stream in pair], dim=-1)


def _append_natively(
    x: Tensor,
    blocks: Sequence[ReversibleBlock],
    cache: DecodeCache,
    counts: Sequence[int],
    positions: Tensor,
) -> Tensor:
    """The same, a layer at a time in one operation each."""
    streams = ExactStreams(x.dtype)
    first, second = streams.open(x), streams.open(x)
    turned: dict[float, tuple[Tensor, Tensor]] = {}
    for index, block in enumerate(blocks):
        layer = _layer_tensors(block, cache.hashing[index], streams.unit)
        base = getattr(block.attention.layer, "rotary_base", None)
        if base is not None and base not in turned:
            turn = rotary_angles(positions, layer.head_size // 2, base, x.dtype)
            turned[base] = turn.cos(), turn.sin()
        sequences = [row.layers[index] for row in cache.rows]
        angles = None if base is None else turned[base]
        outcome = append_layer(first, second, layer, sequences, counts, angles)
        if outcome != 0:
            branch = "attention" if outcome == ATTENTION_OUT_OF_RANGE else "feed_forward"
            raise StreamRangeError(
                f"the residual stream after the {branch} of layer {index} leaves the fixed-point "
                f"range of +-{streams.limit / 2:.0f}: check the weights for NaN, or set "
                "streams='float'"
            )
    return torch.cat((streams.read(first), streams.read(second)), dim=-1)


def _is_plain(block: ReversibleBlock) -> bool:
    """Whether a block is nothing but its weights, and those the native kernel's kind."""
    if block.branches != ReversibleBlock.branches:
        return False
    attention, feed_forward = block.attention, block.feed_forward
    modules = [block.attention_norm, block.feed_forward_norm, attention, feed_forward]
    linears = [*attention.children(), *feed_forward.children()]
    return (
        feed_forward.activation in (functional.gelu, functional.relu)
        and all(type(linear) is nn.Linear for linear in linears)
        and not any(m._forward_hooks or m._forward_pre_hooks for m in (*modules, *linears))
        and not torch.is_autocast_enabled("cpu")
        and refusal(attention.value.weight) is None
    )


def _layer_tensors(
    block: ReversibleBlock, hashing: LayerHashing | None, unit: float
) -> LayerTensors:
    attention, feed_forward = block.attention, block.feed_forward
    if isinstance(attention, LSHSelfAttention):
        query, key, scale = attention.query_key.weight, None, attention.layer.score_scale
    else:
        query, key = attention.query.weight, attention.key.weight
        scale = attention.head_size**-0.5
    if isinstance(attention, FullSelfAttention):
        window = attention.max_length
    else:
        window = attention.layer.window_length
    return LayerTensors(
        attention_norm_weight=block.attention_norm.weight,
        attention_norm_bias=block.attention_norm.bias,
        query=query,
        key=key,
        value=attention.value.weight,
        output=attention.output.weight,
        feed_forward_norm_weight=block.feed_forward_norm.weight,
        feed_forward_norm_bias=block.feed_forward_norm.bias,
        inner_weight=feed_forward.inner.weight,
        inner_bias=feed_forward.inner.bias,
        outer_weight=feed_forward.output.weight,
        outer_bias=feed_forward.output.bias,
        rotations=None if hashing is None else hashing.rotations,
        factors=() if hashing is None else hashing.factors,
        num_heads=attention.num_heads,
        head_size=attention.head_size,
        window_length=window,
        scale=scale,
        norm_epsilon=block.attention_norm.eps,
        is_relu=feed_forward.activation is functional.relu,
        unit=unit,
    )

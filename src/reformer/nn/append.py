"""The stack in decoding: the same layers and streams, on new tokens of cached sequences."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from reformer.nn.cache import DecodeCache, LayerGrowth
from reformer.nn.native_block import native_layer
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
    if kind != "float" and len(x) <= MOST_TOKENS and _is_native(x):
        layers = [layer for layer in map(native_layer, blocks) if layer is not None]
        if len(layers) == len(blocks):
            return _append_natively(x, layers, cache, counts, positions)
    streams: Streams = FloatStreams(x.dtype) if kind == "float" else ExactStreams(x.dtype)
    pair = streams.open(x), streams.open(x)
    for layer, branch, source, target in steps(blocks):
        sequences = [row.layers[layer] for row in cache.rows]
        memories = [row.memory[layer] for row in cache.rows if row.memory]
        growth = LayerGrowth(sequences, counts, positions, cache.hashing[layer], memories)
        out = blocks[layer].append(streams.read(pair[source]), branch, growth)
        streams.add(pair[target], out, f"the {branch} of layer {layer}")
    return torch.cat([streams.read(stream) for stream in pair], dim=-1)


def _is_native(x: Tensor) -> bool:
    return refusal(x) is None and not torch.is_autocast_enabled("cpu")


def _append_natively(
    x: Tensor,
    layers: Sequence[LayerTensors],
    cache: DecodeCache,
    counts: Sequence[int],
    positions: Tensor,
) -> Tensor:
    """The same, a layer at a time in one operation each."""
    streams = ExactStreams(x.dtype)
    first = streams.open(x)
    second = first.clone()
    turned: dict[float, tuple[Tensor, Tensor]] = {}
    for index, layer in enumerate(layers):
        if layer.rotary_base is not None and layer.rotary_base not in turned:
            turn = rotary_angles(positions, layer.head_size // 2, layer.rotary_base, x.dtype)
            turned[layer.rotary_base] = turn.cos(), turn.sin()
        sequences = [row.layers[index] for row in cache.rows]
        angles = None if layer.rotary_base is None else turned[layer.rotary_base]
        outcome = append_layer(
            first, second, layer, sequences, counts, cache.hashing[index], angles
        )
        if outcome != 0:
            branch = "attention" if outcome == ATTENTION_OUT_OF_RANGE else "feed_forward"
            raise StreamRangeError(
                f"the residual stream after the {branch} of layer {index} leaves the fixed-point "
                f"range of +-{streams.limit / 2:.0f}: check the weights for NaN, or set "
                "streams='float'"
            )
    return torch.cat((streams.read(first), streams.read(second)), dim=-1)

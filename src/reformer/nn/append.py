"""The stack in decoding: the same layers and streams, on new tokens of cached sequences."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from reformer.nn.cache import DecodeCache, LayerGrowth
from reformer.nn.reversible import ReversibleBlock
from reformer.nn.streams import ExactStreams, FloatStreams, Streams


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
    streams: Streams = FloatStreams(x.dtype) if kind == "float" else ExactStreams(x.dtype)
    first, second = streams.open(x), streams.open(x)
    for index, block in enumerate(blocks):
        sequences = [row.layers[index] for row in cache.rows]
        growth = LayerGrowth(sequences, counts, positions, cache.hashing[index])
        out = block.attention.append(block.attention_norm(streams.read(second)), growth)
        streams.add(first, out, f"the attention of layer {index}")
        out = block.feed_forward(block.feed_forward_norm(streams.read(first)))
        streams.add(second, out, f"the feed_forward of layer {index}")
    return torch.cat((streams.read(first), streams.read(second)), dim=-1)

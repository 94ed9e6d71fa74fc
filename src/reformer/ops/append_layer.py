"""One whole layer for a few new tokens of cached sequences, as a single operation.

For few tokens the cost of a layer is that of starting its dozens of operations. Here they are
one. The definition is the layer itself, in nn/append.py; this exists as a native kernel only.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from reformer.ops import dispatch
from reformer.ops.decode import LinkedTokens
from reformer.ops.hashing import LayerHashing
from reformer.ops.token_store import SegmentedStore

MOST_TOKENS = 32
"""With more tokens than this at a time, large matrix products are faster."""

ATTENTION_OUT_OF_RANGE, FEED_FORWARD_OUT_OF_RANGE = 2, 3
"""Outcomes beside 0: a branch that the streams cannot hold."""


@dataclass(frozen=True, eq=False)
class LayerTensors:
    """A layer's weights and numbers. All tensors are float32, contiguous and on the CPU."""

    attention_norm_weight: Tensor
    attention_norm_bias: Tensor
    query: Tensor
    """[H * K, D]; in LSH layers, of queries and keys."""
    key: Tensor | None
    value: Tensor
    output: Tensor
    feed_forward_norm_weight: Tensor
    feed_forward_norm_bias: Tensor
    inner_weight: Tensor
    inner_bias: Tensor
    outer_weight: Tensor
    outer_bias: Tensor
    num_heads: int
    head_size: int
    window_length: int
    scale: float
    values: str
    """In LSH layers as in ``lsh_attention``; else "own"."""
    rotary_base: float | None
    norm_epsilon: float
    is_relu: bool
    unit: float
    """Steps of the streams' grid in one."""


def refusal(x: Tensor) -> str | None:
    """Why ``append_layer`` cannot run for a model of such numbers; None when it can."""
    if dispatch.resolve("auto") not in ("auto", "cpu"):
        return "another backend is in force"
    return dispatch.refusal("append_layer", "cpu", x)


def append_layer(
    first: Tensor,
    second: Tensor,
    layer: LayerTensors,
    sequences: Sequence[LinkedTokens | SegmentedStore],
    counts: Sequence[int],
    hashing: LayerHashing | None,
    angles: tuple[Tensor, Tensor] | None,
) -> int:
    """Run the layer on the streams of T new tokens, int32 [T, D], in place; 0 when all is well.

    counts: new tokens of each sequence, packed; the sequences grow. hashing: None but in LSH
    layers. angles: cosine and sine [T, K / 2] of rotary positions. A token's result does not
    depend, not even in its last bit, on what else is appended with it.
    """
    run = dispatch.implementation("append_layer", "cpu", layer.query)
    outcome: int = run(first, second, layer, sequences, counts, hashing, angles)
    return outcome

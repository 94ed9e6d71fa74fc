"""One whole layer for a few new tokens of cached sequences, as a single operation.

For few tokens the cost of a layer is that of starting its dozens of operations. Here they are
one. The definition is the layer itself, in nn/append.py; this exists as a native kernel only.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from reformer.ops import dispatch
from reformer.ops.decode import LinkedTokens
from reformer.ops.token_store import SegmentedStore

MOST_TOKENS = 32
"""With more tokens than this at a time, large matrix products are faster."""

ATTENTION_OUT_OF_RANGE, FEED_FORWARD_OUT_OF_RANGE = 2, 3
"""Outcomes beside 0: a branch that the streams cannot hold."""


@dataclass(frozen=True)
class LayerTensors:
    """A layer's weights and numbers. All tensors are float32 and contiguous."""

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
    rotations: Tensor | None
    """[H, K, R, sum(factors) / 2] of LSH layers."""
    factors: tuple[int, ...]
    num_heads: int
    head_size: int
    window_length: int
    scale: float
    norm_epsilon: float
    is_relu: bool
    unit: float
    """Steps of the streams' grid in one."""


def refusal(weight: Tensor) -> str | None:
    """Why ``append_layer`` cannot run for a model with such weights; None when it can."""
    if dispatch.resolve("auto") not in ("auto", "cpu"):
        return "another backend is in force"
    return dispatch.refusal("append_layer", "cpu", weight)


def append_layer(
    first: Tensor,
    second: Tensor,
    layer: LayerTensors,
    sequences: Sequence[LinkedTokens | SegmentedStore],
    counts: Sequence[int],
    angles: tuple[Tensor, Tensor] | None,
) -> int:
    """Run the layer on the streams of T new tokens, int32 [T, D], in place; 0 when all is well.

    counts: new tokens of each sequence, packed; the sequences grow. angles: cosine and sine
    [T, K / 2] of rotary positions. A token's result does not depend, not even in its last bit,
    on what else is appended with it.
    """
    cosine, sine = (None, None) if angles is None else angles
    run = dispatch.implementation("append_layer", "cpu", layer.query)
    outcome: int = run(first, second, layer, sequences, counts, cosine, sine)
    return outcome

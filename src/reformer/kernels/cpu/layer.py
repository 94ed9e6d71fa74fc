"""A whole layer for a few new tokens on the native kernel; see ops/append_layer.py."""

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reformer.kernels.cpu.decode import Decode, describe
from reformer.kernels.cpu.library import call, refusal

_TENSORS = (
    "attention_norm_weight", "attention_norm_bias", "query", "key", "value", "output",
    "feed_forward_norm_weight", "feed_forward_norm_bias", "inner_weight", "inner_bias",
    "outer_weight", "outer_bias", "cosine", "sine", "rotations",
)  # fmt: skip
_NO_MEMORY = 1


class _Layer(ctypes.Structure):
    """``struct Layer`` of layer.cpp."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("first", "second", *_TENSORS, "factors")),
        *((name, ctypes.c_int64) for name in ("num_factors", "hidden", "inner", "is_relu")),
        ("norm_epsilon", ctypes.c_double),
        ("unit", ctypes.c_double),
        ("decode", Decode),
    ]


def append_layer(
    first: Tensor,
    second: Tensor,
    layer: Any,
    sequences: Sequence[Any],
    counts: Sequence[int],
    cosine: Tensor | None,
    sine: Tensor | None,
) -> int:
    """``ops.append_layer.append_layer``: 0, 2 or 3; layer is its ``LayerTensors``."""
    linked = layer.rotations is not None
    stores = [sequence.store for sequence in sequences] if linked else sequences
    tensors = {name: getattr(layer, name, None) for name in _TENSORS}
    tensors |= {"cosine": cosine, "sine": sine}
    decode, kept = describe(
        stores, counts, heads=layer.num_heads, width=layer.head_size, window=layer.window_length,
        scale=layer.scale,
    )  # fmt: skip
    if linked:
        last = np.array([sequence.last.data_ptr() for sequence in sequences], dtype=np.int64)
        decode.last, decode.rounds = last.ctypes.data, layer.rotations.shape[2]
        decode.num_buckets = sequences[0].last.shape[-1]
        kept.append(last)
    factors = (ctypes.c_int64 * len(layer.factors))(*layer.factors)
    arguments = _Layer(
        first=first.data_ptr(), second=second.data_ptr(),
        **{name: None if t is None else t.data_ptr() for name, t in tensors.items()},
        factors=ctypes.addressof(factors), num_factors=len(layer.factors),
        hidden=first.shape[1], inner=layer.inner_bias.shape[0], is_relu=layer.is_relu,
        norm_epsilon=layer.norm_epsilon, unit=layer.unit, decode=decode,
    )  # fmt: skip
    outcome = call("reformer_append_layer", arguments)
    del kept
    if outcome == _NO_MEMORY:
        raise MemoryError("reformer_append_layer: not enough memory for its scratch arrays")
    for store, count in zip(stores, counts, strict=True):
        store.advance(count)
    return outcome


def layer_refusal(tensor: Tensor) -> str | None:
    """Why a whole layer cannot run here; ``tensor`` is a float weight."""
    if tensor.dtype != torch.float32:
        return f"the dtype is {tensor.dtype}; whole layers are computed in float32"
    return refusal(tensor)

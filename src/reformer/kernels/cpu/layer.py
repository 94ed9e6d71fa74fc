"""A whole layer for a few new tokens on the native kernel; see ops/append_layer.py."""

import ctypes
from array import array
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from reformer.kernels.cpu.decode import Decode, address, ahead, describe
from reformer.kernels.cpu.library import call, refusal

_WEIGHTS = (
    "attention_norm_weight", "attention_norm_bias", "query", "key", "value", "output",
    "feed_forward_norm_weight", "feed_forward_norm_bias", "inner_weight", "inner_bias",
    "outer_weight", "outer_bias",
)  # fmt: skip
_POINTERS = ("first", "second", *_WEIGHTS, "cosine", "sine", "rotations", "factors")
_NO_MEMORY = 1


class _Layer(ctypes.Structure):
    """``struct Layer`` of layer.cpp."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in _POINTERS),
        *((name, ctypes.c_int64) for name in ("num_factors", "hidden", "inner", "is_relu")),
        ("norm_epsilon", ctypes.c_double),
        ("unit", ctypes.c_double),
        ("decode", Decode),
    ]


_descriptions: WeakKeyDictionary[Any, _Layer] = WeakKeyDictionary()
"""Of each ``LayerTensors`` what does not change from token to token."""


def append_layer(
    first: Tensor,
    second: Tensor,
    layer: Any,
    sequences: Sequence[Any],
    counts: Sequence[int],
    hashing: Any,
    angles: tuple[Tensor, Tensor] | None,
) -> int:
    """``ops.append_layer.append_layer``: 0, 2 or 3; layer and hashing are its types."""
    stores = sequences if hashing is None else [sequence.store for sequence in sequences]
    arguments = _Layer.from_buffer_copy(_described(layer))
    arguments.first, arguments.second = first.data_ptr(), second.data_ptr()
    if angles is not None:
        arguments.cosine, arguments.sine = (part.data_ptr() for part in angles)
    kept: list[object] = describe(arguments.decode, stores, counts)
    if hashing is not None:
        kept += _set_hashing(arguments, hashing, sequences)
    outcome = call("reformer_append_layer", arguments)
    del kept
    if outcome == _NO_MEMORY:
        raise MemoryError("reformer_append_layer: not enough memory for its scratch arrays")
    for store, count in zip(stores, counts, strict=True):
        store.advance(count)
    return outcome


def _described(layer: Any) -> _Layer:
    found = _descriptions.get(layer)
    if found is None:
        weights = {name: getattr(layer, name) for name in _WEIGHTS}
        found = _descriptions[layer] = _Layer(
            **{name: None if t is None else t.data_ptr() for name, t in weights.items()},
            hidden=layer.query.shape[1], inner=layer.inner_bias.shape[0], is_relu=layer.is_relu,
            norm_epsilon=layer.norm_epsilon, unit=layer.unit,
            decode=Decode(
                heads=layer.num_heads, width=layer.head_size, window=layer.window_length,
                scale=layer.scale, ahead=ahead(layer.values),
            ),
        )  # fmt: skip
    return found


def _set_hashing(arguments: _Layer, hashing: Any, sequences: Sequence[Any]) -> list[object]:
    """Returns what must outlive the arguments' use."""
    last = array("q", [sequence.last.data_ptr() for sequence in sequences])
    factors = array("q", hashing.factors)
    matrix = hashing.rotations.matrix
    arguments.rotations = matrix.data_ptr()
    arguments.factors, arguments.num_factors = address(factors), len(factors)
    decode = arguments.decode
    decode.last, decode.rounds = address(last), matrix.shape[2]
    decode.num_buckets = sequences[0].last.shape[-1]
    return [last, factors]


def layer_refusal(tensor: Tensor) -> str | None:
    """Why a whole layer cannot run here; ``tensor`` holds the model's kind of numbers."""
    if tensor.dtype != torch.float32:
        return f"the dtype is {tensor.dtype}; whole layers are computed in float32"
    return refusal(tensor)

"""Appending to cached sequences on the native kernel; see ops/decode.py."""

import ctypes
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reformer.kernels.cpu.library import refusal, run

_SEGMENT_FIELDS = ("start", "key", "value", "link", "bucket")


class Decode(ctypes.Structure):
    """``struct Decode`` of append.h."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in (
            "query", "key", "value", "buckets", "out", "first_row", "length", "first_segment",
            *(f"segment_{name}" for name in _SEGMENT_FIELDS), "last",
        )),
        *((name, ctypes.c_int64) for name in (
            "sequences", "heads", "width", "rounds", "num_buckets", "window",
        )),
        ("scale", ctypes.c_double),
        ("threads", ctypes.c_int64),
    ]  # fmt: skip


def append_refusal(tensor: Tensor) -> str | None:
    """As ``library.refusal``; keys and values are kept in float32 only."""
    if tensor.dtype == torch.bfloat16:
        return "the dtype is torch.bfloat16; cached keys and values are float32"
    return refusal(tensor)


def append_linked(
    query_key: Tensor,
    value: Tensor,
    buckets: Tensor,
    sequences: Sequence[Any],
    counts: Sequence[int],
    window_length: int,
    scale: float,
) -> Tensor:
    """``ops.decode.append_linked``; sequences are its ``LinkedTokens``."""
    last = _array([sequence.last.data_ptr() for sequence in sequences])
    buckets = buckets.to(torch.int32).contiguous()
    return _append(
        query_key.contiguous(), None, value.contiguous(), [s.store for s in sequences], counts,
        buckets=buckets.data_ptr(), last=last.ctypes.data, rounds=buckets.shape[-1],
        num_buckets=sequences[0].last.shape[-1], window=window_length, scale=scale,
    )  # fmt: skip


def append_windowed(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sequences: Sequence[Any],
    counts: Sequence[int],
    window_length: int,
) -> Tensor:
    """``ops.decode.append_windowed``; sequences are its ``SegmentedStore``s."""
    return _append(
        query.contiguous(), key.contiguous(), value.contiguous(), sequences, counts,
        rounds=0, window=window_length, scale=query.shape[-1] ** -0.5,
    )  # fmt: skip


def _append(
    query: Tensor,
    key: Tensor | None,
    value: Tensor,
    stores: Sequence[Any],
    counts: Sequence[int],
    **values: Any,
) -> Tensor:
    out = torch.empty_like(value)
    arguments, kept = describe(
        stores, counts, query=query.data_ptr(), key=None if key is None else key.data_ptr(),
        value=value.data_ptr(), out=out.data_ptr(), heads=query.shape[1], width=query.shape[2],
        **values,
    )  # fmt: skip
    run("reformer_decode", arguments)
    del kept
    for store, count in zip(stores, counts, strict=True):
        store.advance(count)
    return out


def describe(
    stores: Sequence[Any], counts: Sequence[int], **values: Any
) -> tuple[Decode, list[NDArray[np.int64]]]:
    """Make room in the stores and describe them; the arrays must outlive the structure's use."""
    for store, count in zip(stores, counts, strict=True):
        store.reserve(count)
    tables = [store.addresses() for store in stores]
    arrays = {
        "first_row": _array([0, *accumulate(counts)]),
        "length": _array([store.length for store in stores]),
        "first_segment": _array([0, *accumulate(len(table["start"]) for table in tables)]),
    }
    for name in _SEGMENT_FIELDS:
        if name in tables[0]:
            arrays[f"segment_{name}"] = _joined(tables, name)
    arguments = Decode(
        **{name: array.ctypes.data for name, array in arrays.items()},
        sequences=len(stores), threads=torch.get_num_threads(), **values,
    )  # fmt: skip
    return arguments, list(arrays.values())


def _array(values: list[int]) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)


def _joined(tables: list[dict[str, NDArray[np.int64]]], name: str) -> NDArray[np.int64]:
    if len(tables) == 1:
        return tables[0][name]
    return np.concatenate([table[name] for table in tables])

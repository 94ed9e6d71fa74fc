"""Appending to cached sequences on the native kernel; see ops/decode.py."""

import ctypes
from array import array
from collections.abc import Sequence
from itertools import accumulate, chain
from typing import Any

import torch
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
            "sequences", "heads", "width", "rounds", "num_buckets", "window", "ahead",
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
    values: str,
) -> Tensor:
    """``ops.decode.append_linked``; sequences are its ``LinkedTokens``."""
    last = array("q", [sequence.last.data_ptr() for sequence in sequences])
    buckets = buckets.to(torch.int32).contiguous()
    arguments = Decode(
        buckets=buckets.data_ptr(), last=address(last), rounds=buckets.shape[-1],
        num_buckets=sequences[0].last.shape[-1], window=window_length, ahead=ahead(values),
        scale=scale,
    )  # fmt: skip
    stores = [sequence.store for sequence in sequences]
    return _append(arguments, query_key.contiguous(), None, value.contiguous(), stores, counts)


def append_windowed(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sequences: Sequence[Any],
    counts: Sequence[int],
    window_length: int,
) -> Tensor:
    """``ops.decode.append_windowed``; sequences are its ``SegmentedStore``s."""
    arguments = Decode(rounds=0, window=window_length, scale=query.shape[-1] ** -0.5)
    query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
    return _append(arguments, query, key, value, sequences, counts)


def _append(
    arguments: Decode,
    query: Tensor,
    key: Tensor | None,
    value: Tensor,
    stores: Sequence[Any],
    counts: Sequence[int],
) -> Tensor:
    out = torch.empty_like(value)
    arguments.query, arguments.value = query.data_ptr(), value.data_ptr()
    arguments.key = None if key is None else key.data_ptr()
    arguments.out, (arguments.heads, arguments.width) = out.data_ptr(), query.shape[1:]
    kept = describe(arguments, stores, counts)
    run("reformer_decode", arguments)
    del kept
    for store, count in zip(stores, counts, strict=True):
        store.advance(count)
    return out


def describe(arguments: Decode, stores: Sequence[Any], counts: Sequence[int]) -> list[object]:
    """Make room in the stores and describe them; returns what must outlive the arguments' use."""
    for store, count in zip(stores, counts, strict=True):
        store.reserve(count)
    tables = [store.addresses() for store in stores]
    lengths = array("q", [store.length for store in stores])
    rows = array("q", accumulate(counts, initial=0))
    segments = array("q", accumulate((len(table["start"]) for table in tables), initial=0))
    arguments.first_row, arguments.length = address(rows), address(lengths)
    arguments.first_segment = address(segments)
    kept: list[object] = [rows, lengths, segments]
    for name in tables[0]:
        table = tables[0][name] if len(tables) == 1 else _joined(tables, name)
        setattr(arguments, f"segment_{name}", address(table))
        kept.append(table)
    arguments.sequences, arguments.threads = len(stores), torch.get_num_threads()
    return kept


def ahead(values: str) -> int:
    """How many places after a token the value stands that it gives."""
    return int(values == "next")


def address(numbers: "array[int]") -> int:
    """Where the numbers are in memory."""
    return numbers.buffer_info()[0]


def _joined(tables: list[dict[str, "array[int]"]], name: str) -> "array[int]":
    return array("q", chain.from_iterable(table[name] for table in tables))

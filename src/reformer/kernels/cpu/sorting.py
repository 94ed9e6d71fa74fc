"""Sorting on the native kernel; see ``sort_tokens`` in ops/order.py."""

import ctypes

import torch
from torch import Tensor

from reformer.kernels.cpu.library import run


class _Sorting(ctypes.Structure):
    """``struct Sorting`` of sort.h."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("buckets", "segment_ids", "order", "code")),
        *((name, ctypes.c_int64) for name in (
            "bucket_bytes", "is_unsigned", "is_wide", "batch", "heads", "length", "rounds",
            "window", "threads",
        )),
    ]  # fmt: skip


def sort_tokens(
    buckets: Tensor, segment_ids: Tensor | None, window_length: int
) -> tuple[Tensor, Tensor]:
    """Order and code [B, H, R, L]: int32, or int64 where a code can pass 2^31."""
    batch, heads, rounds, length = buckets.shape
    dtype = torch.int32 if length * (window_length + 1) < 2**31 else torch.int64
    order, code = (buckets.new_empty(buckets.shape, dtype=dtype) for _ in range(2))
    buckets = buckets.contiguous()
    if segment_ids is not None:
        segment_ids = segment_ids.to(torch.int64).contiguous()
    arguments = _Sorting(
        buckets=buckets.data_ptr(), order=order.data_ptr(), code=code.data_ptr(),
        segment_ids=None if segment_ids is None else segment_ids.data_ptr(),
        bucket_bytes=buckets.element_size(), is_unsigned=buckets.dtype == torch.uint8,
        is_wide=dtype == torch.int64, batch=batch, heads=heads, length=length, rounds=rounds,
        window=window_length, threads=torch.get_num_threads(),
    )  # fmt: skip
    run("reformer_sort_tokens", arguments)
    return order, code

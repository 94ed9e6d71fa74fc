"""Hashing on the native kernel; see ``hash_vectors`` in ops/hashing.py."""

import ctypes
import math

import torch
from torch import Tensor

from reformer.kernels.cpu.library import Strided, rows, run


class _Hashing(ctypes.Structure):
    """``struct Hashing`` of hash.h."""

    _fields_ = [
        ("vectors", Strided),
        *((name, ctypes.c_void_p) for name in ("rotations", "signs", "buckets", "factors")),
        *((name, ctypes.c_int64) for name in (
            "num_signs", "num_factors", "bucket_bytes", "batch", "heads", "length", "width",
            "rounds", "is_bfloat16", "threads",
        )),
    ]  # fmt: skip


def _bucket_dtype(num_buckets: int) -> torch.dtype:
    for dtype in (torch.uint8, torch.int16, torch.int32):
        if num_buckets - 1 <= torch.iinfo(dtype).max:
            return dtype
    return torch.int64


def hash_vectors(
    vectors: Tensor, rotations: Tensor, signs: Tensor | None, factors: list[int]
) -> Tensor:
    """Buckets [B, H, R, L] in the smallest integer type that holds their number."""
    batch, heads, length, width = vectors.shape
    rounds = rotations.shape[2]
    dtype = _bucket_dtype(math.prod(factors))
    buckets = vectors.new_empty((batch, heads, rounds, length), dtype=dtype)
    vectors = rows(vectors)
    rotations = rotations.to(torch.float32).contiguous()
    if signs is not None:
        signs = signs.to(torch.float32).contiguous()
    sizes = (ctypes.c_int64 * len(factors))(*factors)
    arguments = _Hashing(
        vectors=Strided.of(vectors), rotations=rotations.data_ptr(), buckets=buckets.data_ptr(),
        signs=None if signs is None else signs.data_ptr(),
        num_signs=0 if signs is None else signs.shape[1],
        factors=ctypes.addressof(sizes), num_factors=len(factors),
        bucket_bytes=buckets.element_size(), batch=batch, heads=heads, length=length,
        width=width, rounds=rounds, is_bfloat16=vectors.dtype == torch.bfloat16,
        threads=torch.get_num_threads(),
    )  # fmt: skip
    run("reformer_hash_vectors", arguments)
    return buckets

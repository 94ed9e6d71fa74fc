"""Random numbers that are functions of their names, never of a global generator.

Every draw is named by integers (seed, step, layer, …). ``derive_seed`` turns the name into
a seed; ``generator`` into a private ``torch.Generator``. Dropout inside attention needs a
number for each pair of tokens that any kernel can recompute in any order, so it is a
hash of (seed, row, query position, key position): ``pair_keep_mask``.
"""

import torch
from torch import Tensor

_MASK32 = 0xFFFFFFFF
_MASK64 = 0xFFFFFFFFFFFFFFFF


def derive_seed(*names: int) -> int:
    """A 63-bit seed from any number of integers (SplitMix64, one round per name)."""
    state = 0x9E3779B97F4A7C15
    for name in names:
        state = (state ^ (name & _MASK64)) & _MASK64
        state = (state + 0x9E3779B97F4A7C15) & _MASK64
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK64
        state ^= state >> 31
    return state >> 1


def generator(*names: int) -> torch.Generator:
    """A private CPU generator for the draw with this name."""
    return torch.Generator().manual_seed(derive_seed(*names))


def dropout(x: Tensor, rate: float, *, shared: bool, seed: int) -> Tensor:
    """``x`` [B, L, D] with a share ``rate`` of its entries zeroed, the rest scaled up.

    ``shared``: one mask per sequence for all positions (shape [B, 1, D]), as in Trax.
    """
    shape = (x.shape[0], 1, x.shape[2]) if shared else tuple(x.shape)
    keep = torch.rand(shape, generator=generator(seed)) >= rate
    return x * keep.to(x.device, x.dtype).div_(1.0 - rate)


def _mix32(x: Tensor) -> Tensor:
    """A bijective 32-bit integer hash (two multiply-xorshift rounds) on int64 tensors."""
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & _MASK32
    x = x ^ (x >> 15)
    x = (x * 0x846CA68B) & _MASK32
    return x ^ (x >> 16)


def pair_keep_mask(seed: int, rows: Tensor, queries: Tensor, keys: Tensor, rate: float) -> Tensor:
    """Which (query, key) pairs survive dropout: True with probability 1 - rate.

    rows, queries, keys: broadcastable int64 tensors; ``rows`` is batch * num_heads + head,
    ``queries`` and ``keys`` are token positions. All arithmetic is modulo 2^32:

        h = mix(mix(mix(row ^ seed_low) ^ seed_high ^ query * 0x9E3779B1) ^ key * 0x85EBCA77)

    and the pair is kept iff h >= floor(rate * 2^32).
    """
    low, high = seed & _MASK32, (seed >> 32) & _MASK32
    state = _mix32((rows & _MASK32) ^ low)
    state = _mix32(state ^ high ^ ((queries * 0x9E3779B1) & _MASK32))
    state = _mix32(state ^ ((keys * 0x85EBCA77) & _MASK32))
    return state >= int(rate * 2**32)

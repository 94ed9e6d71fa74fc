"""Positions: axial tables (paper section 4, "axial positional embeddings") and rotary angles.

    E[t] = concat_a W_a[digit_a(t)],   digits of t in row-major order over the axes

A table for n1 * n2 * … positions costs n1 * d1 + n2 * d2 + … numbers.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def axial_positions(tables: Sequence[Tensor], positions: Tensor) -> Tensor:
    """Embeddings of ``positions``: [..., d1 + d2 + …] for tables [n_a, d_a] of any rank.

    positions: int64, any shape, values in 0 … n1 * n2 * … - 1 (others raise IndexError).
    """
    total = math.prod(table.shape[0] for table in tables)
    if positions.numel() and int(positions.max()) >= total:
        raise IndexError(f"position {int(positions.max())} is outside a table of {total} positions")
    if positions.numel() and int(positions.min()) < 0:
        raise IndexError(f"position {int(positions.min())} is negative")
    parts = []
    for table in reversed(tables):
        parts.append(torch.nn.functional.embedding(positions % table.shape[0], table))
        positions = positions // table.shape[0]
    return torch.cat(parts[::-1], dim=-1)


def rotary_angles(positions: Tensor, half: int, base: float, dtype: torch.dtype) -> Tensor:
    """position * base^(-2m / K) for m below half = K / 2: [..., K / 2]."""
    exponents = torch.arange(half, device=positions.device, dtype=dtype) / half
    return positions.to(dtype)[..., None] * base**-exponents


def rotate(x: Tensor, positions: Tensor, base: float) -> Tensor:
    """Rotary position encoding: pairs (x_m, x_{m + K/2}) turned by position * base^(-2m / K).

    x: [B, H, L, K], K even; positions: [L] or [B, L]. Angles are computed in float32 (float64
    for float64 input); the result has the dtype of x. Scores of rotated queries and keys
    depend on the distance of their positions only.
    """
    half = x.shape[-1] // 2
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    angles = rotary_angles(positions, half, base, dtype)
    if positions.dim() == 2:
        angles = angles[:, None]
    cosine, sine = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return torch.cat((first * cosine - second * sine, first * sine + second * cosine), dim=-1)

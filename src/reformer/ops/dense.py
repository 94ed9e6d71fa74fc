"""The definition of attention over a sorted order, written out in [L, L]: the test oracle.

Plain differentiable torch. Nothing here is fast or small; everything else is judged by it.
"""

import torch
from torch import Tensor

from reformer.ops.attention import Dropout, Visibility, accumulation_dtype, normalize_key
from reformer.ops.randomness import pair_keep_mask


def pair_counts(
    order: Tensor | None,
    code: Tensor | None,
    visibility: Visibility,
    segment_ids: Tensor | None,
    shape: tuple[int, int, int],
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """How often each query sees each key: [B, H, L, L] float64 counts, queries along dim 2.

    0 or 1 under the window rule (a union); a number of occurrences under the chunk rule.
    The second result, bool [B, H, L, 1], marks queries that see nobody and so count
    themselves once. ``shape`` is (B, H, L).
    """
    batch, heads, length = shape
    positions = torch.arange(length, device=device)
    if order is None or code is None:
        order = positions.expand(batch, heads, 1, length)
        code = order
    if visibility.rule == "window":
        counts = _window_counts(code.to(torch.int64), visibility)
    else:
        counts = _chunk_counts(order.to(torch.int64), visibility)
        earlier = positions[None, :] <= positions[:, None]
        if visibility.causal:
            counts = counts * earlier
        if not visibility.include_self:
            counts = counts * (positions[None, :] != positions[:, None])
        if segment_ids is not None:
            same = segment_ids[:, :, None] == segment_ids[:, None, :]
            counts = counts * (same & (segment_ids >= 0)[:, None, :])[:, None]
    alone = counts.sum(dim=-1, keepdim=True) == 0
    return counts + alone * torch.eye(length, dtype=counts.dtype, device=device), alone


def _window_counts(code: Tensor, visibility: Visibility) -> Tensor:
    distance = code[..., :, None] - code[..., None, :]
    near = distance.abs() < visibility.length
    if visibility.causal:
        near &= distance >= 0
    if not visibility.include_self:
        near &= distance != 0
    return near.any(dim=2).double()


def _chunk_counts(order: Tensor, visibility: Visibility) -> Tensor:
    batch, heads, rounds, length = order.shape
    chunk = visibility.length
    per_round = -(-length // chunk)
    # items[g]: the tokens of chunk g, all rounds laid end to end; -1 is a pad of the last chunk.
    padded = order.new_full((batch, heads, rounds, per_round * chunk), -1)
    padded[..., :length] = order
    items = padded.reshape(batch, heads, rounds * per_round, chunk)
    counts = torch.zeros(
        batch, heads, length + 1, length + 1, dtype=torch.float64, device=order.device
    )
    for offset in range(-visibility.before, visibility.after + 1):
        keys = items.roll(-offset, dims=2)
        member = torch.zeros(*items.shape[:3], length + 1, dtype=torch.float64, device=order.device)
        query_member = member.clone().scatter_(3, items % (length + 1), 1.0)
        key_member = member.clone().scatter_(3, keys % (length + 1), 1.0)
        counts += query_member.transpose(2, 3) @ key_member
    return counts[:, :, :length, :length]


def attend_dense(
    query: Tensor,
    key: Tensor | None,
    value: Tensor,
    order: Tensor | None,
    code: Tensor | None,
    visibility: Visibility,
    *,
    segment_ids: Tensor | None = None,
    scale: float = 1.0,
    dropout: Dropout = Dropout(),
) -> tuple[Tensor, Tensor]:
    """Same arguments and results as ``attend``, by definition: O(L^2) time and memory."""
    batch, heads, length, _ = query.shape
    counts, alone = pair_counts(
        order, code, visibility, segment_ids, (batch, heads, length), query.device
    )
    dtype = accumulation_dtype(query.dtype)
    wide = query.to(dtype)
    keys = normalize_key(wide) if key is None else key.to(dtype)
    scores = scale * (wide @ keys.transpose(-1, -2))
    scores = torch.where(counts > 0, scores + counts.to(dtype).log(), -torch.inf)
    lse = scores.logsumexp(dim=-1)
    weights = (scores - lse[..., None]).exp()
    if dropout.rate > 0:
        rows = torch.arange(batch * heads, device=query.device).view(batch, heads, 1, 1)
        positions = torch.arange(length, device=query.device)
        keep = pair_keep_mask(
            dropout.seed, rows, positions[:, None], positions[None, :], dropout.rate
        )
        weights = weights * torch.where(alone, 1.0, keep.to(dtype) / (1.0 - dropout.rate))
    given = value
    if visibility.gives_next:  # that of the next token, but nothing of another segment
        given = torch.nn.functional.pad(value[:, :, 1:], (0, 0, 0, 1))
        if segment_ids is not None:
            followed = segment_ids[:, :-1] == segment_ids[:, 1:]
            given = given * torch.nn.functional.pad(followed, (0, 1))[:, None, :, None]
    out = (weights @ given.to(dtype)).to(query.dtype)
    return (torch.where(alone, value, out) if visibility.gives_next else out), lse

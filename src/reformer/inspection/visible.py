"""Which keys a sample of queries sees, round by round: ``ops.dense`` for some rows only."""

import torch
from torch import Tensor

from reformer.ops.attention import Visibility
from reformer.ops.order import sort_tokens


def visible_by_round(buckets: Tensor, visibility: Visibility, queries: Tensor) -> Tensor:
    """Whether round r shows key j to a query: bool [R, Q, L], no query seeing itself.

    buckets: [R, L] of one head; queries: int64 [Q], positions.
    """
    order, code = (t[0, 0] for t in sort_tokens(buckets[None, None], visibility.length))
    if visibility.rule == "window":
        distance = code.long()[:, queries, None] - code.long()[:, None, :]
        seen = distance.abs() < visibility.length
    else:
        seen = _same_chunks(order.long(), visibility, queries)
    positions = torch.arange(buckets.shape[-1])
    if visibility.causal:
        return seen & (positions < queries[:, None])
    return seen & (positions != queries[:, None])


def _same_chunks(order: Tensor, visibility: Visibility, queries: Tensor) -> Tensor:
    """Chunk rule: all rounds end to end in one circle of chunks; [R, Q, L]."""
    rounds, length = order.shape
    per_round = -(-length // visibility.length)
    places = torch.arange(length).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, places)
    chunk = rank // visibility.length + per_round * torch.arange(rounds)[:, None]
    seen = torch.zeros(rounds, len(queries), length, dtype=torch.bool)
    for key_chunk in chunk:  # of every round, since a circle joins them
        back = chunk[:, queries, None] - key_chunk
        for offset in range(-visibility.after, visibility.before + 1):
            seen |= (back - offset) % (rounds * per_round) == 0
    return seen

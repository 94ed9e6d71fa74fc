"""LSH attention as its published implementations compute it (Trax, Hugging Face).

The chunk rule over the sorted rounds laid end to end, with two particulars that matter to
agree with them in float32:

- A query's own token has the finite score S = -1e5, which only counts where it sees no other
  token. Its share is then Σ_r exp(l_r - logsumexp(l)) n_r exp(S - l_r), l_r = S + log n_r, with
  n_r its own occurrences among the keys of round r. That is 1, but for rounding: numbers near
  1e5 are 2^-7 apart in float32, and two rounds give 0.998. Their models are trained with this.
- Sequences within one chunk get exact attention, without rounds.
"""

import torch
from torch import Tensor

from reformer.ops.attention import Dropout, Visibility, attend
from reformer.ops.order import sort_tokens

_SELF_SCORE = -1e5


def published_lsh_attention(
    query_key: Tensor,
    value: Tensor,
    buckets: Tensor,
    visibility: Visibility,
    *,
    segment_ids: Tensor | None = None,
    scale: float = 1.0,
    dropout: Dropout = Dropout(),
    backend: str = "auto",
) -> Tensor:
    """query_key, value: [B, H, L, K]; buckets: [B, H, R, L]; returns [B, H, L, K].

    visibility: of the chunk rule, without the own token. segment_ids: [B, L], a negative id is
    padding.
    """
    length = query_key.shape[2]
    if length <= visibility.length:
        buckets = buckets[:, :, :1] * 0
        visibility = visibility._replace(before=0, after=0)
    order, code = sort_tokens(buckets, visibility.length, segment_ids=segment_ids, backend=backend)
    out, _ = attend(
        query_key, None, value, order, code, visibility,
        segment_ids=segment_ids, scale=scale, dropout=dropout, backend=backend,
    )  # fmt: skip
    share = self_share(order, visibility, segment_ids, query_key.dtype)
    return out if share is None else out * share[..., None]


def self_share(
    order: Tensor, visibility: Visibility, segment_ids: Tensor | None, dtype: torch.dtype
) -> Tensor | None:
    """What a query's own token weighs where it sees no other, 1 elsewhere: [B, H, L].

    order: [B, H, R, L]. None where every share is exactly 1.
    """
    alone = _lone_tokens(order, visibility, segment_ids)
    rows, tokens = alone.flatten(0, 1).nonzero(as_tuple=True)
    if rows.numel() == 0:
        return None
    wide = dtype if dtype == torch.float64 else torch.float32
    counts = _own_occurrences(order.flatten(0, 1), visibility, rows, tokens).to(wide)
    per_round = _SELF_SCORE + counts.log()
    total = per_round.logsumexp(dim=-1, keepdim=True)
    shares = ((per_round - total).exp() * counts * (_SELF_SCORE - per_round).exp()).sum(dim=-1)
    result = torch.ones(alone.shape, dtype=wide, device=order.device)
    result.view(-1, alone.shape[-1])[rows, tokens] = shares
    return result.to(dtype)


def _chunks(order: Tensor, length: int) -> Tensor:
    """Rounds [.., R, L] as one line of chunks [.., R * ceil(L / c), c]; -1 fills the last ones."""
    missing = -order.shape[-1] % length
    padded = torch.nn.functional.pad(order, (0, missing), value=-1)
    return padded.unflatten(-1, (-1, length)).flatten(-3, -2)


def _lone_tokens(order: Tensor, visibility: Visibility, segment_ids: Tensor | None) -> Tensor:
    """Which tokens see no other token in any round, bool [B, H, L]; padding is left out.

    A window shows an earlier token iff its smallest position is below the query's own. All
    segments but padding count as one, which is all that the published models know.
    """
    batch, heads, _, length = order.shape
    items = _chunks(order.to(torch.int64), visibility.length)
    valid = items >= 0
    if segment_ids is not None:
        segments = segment_ids[:, None].expand(batch, heads, length)
        flat = segments.gather(-1, items.clamp(min=0).flatten(-2)).view(items.shape)
        valid &= flat >= 0
    first = items.masked_fill(~valid, length).amin(dim=-1)
    last = items.masked_fill(~valid, -1).amax(dim=-1)
    offsets = range(-visibility.before, visibility.after + 1)
    first = torch.stack([first.roll(-o, dims=-1) for o in offsets]).amin(dim=0)[..., None]
    last = torch.stack([last.roll(-o, dims=-1) for o in offsets]).amax(dim=0)[..., None]
    sees = first < items
    if not visibility.causal:
        sees |= last > items
    # Padding counts as seeing; the fillers write into one more place than there are tokens.
    seen = torch.zeros(batch, heads, length + 1, dtype=torch.int8, device=order.device)
    slots = items.masked_fill(items < 0, length).flatten(-2)
    seen.scatter_reduce_(-1, slots, (sees | ~valid).to(torch.int8).flatten(-2), reduce="amax")
    return seen[..., :length] == 0


def _own_occurrences(order: Tensor, visibility: Visibility, rows: Tensor, tokens: Tensor) -> Tensor:
    """How often each of n tokens is among the keys of its own query, in each round: [n, R].

    order: [G, R, L]; rows: [n], into G; tokens: [n]. The window of a round's first chunk reaches
    into the round before, where the token may stand again.
    """
    rounds = order.shape[1]
    items = _chunks(order.to(torch.int64), visibility.length)
    per_round = items.shape[1] // rounds
    ranks = (order[rows] == tokens[:, None, None]).int().argmax(dim=-1)
    chunks = torch.arange(rounds, device=order.device) * per_round + ranks // visibility.length
    counts = torch.zeros_like(ranks)
    for offset in range(-visibility.before, visibility.after + 1):
        keys = items[rows[:, None], (chunks + offset) % items.shape[1]]
        counts += (keys == tokens[:, None, None]).sum(dim=-1)
    return counts

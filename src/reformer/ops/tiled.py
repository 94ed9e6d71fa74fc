"""Attention over a sorted order in plain torch, tile by tile: the forward, for every device.

The order is cut into tiles of queries; a tile's keys are the few neighbouring tiles that can
hold a visible pair. One round and a slice of the heads are handled at a time, so the largest
temporary is [heads in slice, L, keys per tile] and nothing grows with the number of rounds.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from reformer.ops import dispatch
from reformer.ops.attention import Dropout, Visibility, accumulation_dtype, normalize_key
from reformer.ops.next_values import attend_to_next
from reformer.ops.randomness import pair_keep_mask

# Scores in flight: 32 MB in float32.
_SLICE_SCORES = 1 << 23
_SMALLEST_TILE = 16


@dataclass(frozen=True)
class Layout:
    """How one call's order is cut into tiles."""

    tile: int
    per_round: int
    before: int
    after: int

    @staticmethod
    def of(visibility: Visibility, length: int) -> "Layout":
        if visibility.rule == "chunk":
            tile, before, after = visibility.length, visibility.before, visibility.after
        else:
            tile = min(max(visibility.length, _SMALLEST_TILE), max(length, 1))
            before = -(-(visibility.length - 1) // tile)
            before = min(before, -(-length // tile) - 1)
            after = 0 if visibility.causal else before
        return Layout(tile, -(-length // tile), before, after)

    @property
    def span(self) -> int:
        return self.before + 1 + self.after


@dataclass(frozen=True)
class Inputs:
    """One slice of (batch, head) rows, flattened to G; K is the head width."""

    first_row: int
    query: Tensor  # [G, L, K]
    key: Tensor  # [G, L, K]
    value: Tensor  # [G, L, K]
    order: Tensor  # [G, R, L]
    code: Tensor  # [G, R, L]
    segments: Tensor | None  # [G, L]


@dataclass(frozen=True)
class Round:
    """One round of a slice: the tokens of its tiles and which pairs are visible.

    Tokens are indices into the slice's flattened rows [G * L]; G * L stands for a pad.
    """

    queries: Tensor  # [G, tiles, T]
    keys: Tensor  # [G, before + tiles + after, T]
    visible: Tensor  # bool [G, tiles, T, span * T]
    keep: Tensor | None  # dropout factors, as visible


def slices_of(
    query: Tensor,
    key: Tensor | None,
    value: Tensor,
    order: Tensor | None,
    code: Tensor | None,
    segment_ids: Tensor | None,
    layout: Layout,
) -> Iterator[tuple[slice, Inputs]]:
    batch, heads, length, width = query.shape
    rows = batch * heads
    dtype = accumulation_dtype(query.dtype)
    scores = layout.per_round * layout.tile * layout.span * layout.tile
    step = max(1, _SLICE_SCORES // max(scores, 1))
    flat = [x.reshape(rows, length, width) for x in (query, query if key is None else key, value)]
    if order is None or code is None:
        order = code = torch.arange(length, device=query.device).expand(batch, heads, 1, length)
    order, code = order.flatten(0, 1), code.flatten(0, 1)
    segments = None
    if segment_ids is not None:
        segments = segment_ids[:, None].expand(batch, heads, length).reshape(rows, length)
    for start in range(0, rows, step):
        part = slice(start, min(start + step, rows))
        q, k, v = (x[part].to(dtype) for x in flat)
        yield (
            part,
            Inputs(
                first_row=start,
                query=q,
                key=normalize_key(k) if key is None else k,
                value=v,
                order=order[part].to(torch.int64),
                code=code[part].to(torch.int64),
                segments=None if segments is None else segments[part],
            ),
        )


def _tiles(
    inputs: Inputs, layout: Layout, visibility: Visibility, index: int
) -> tuple[Tensor, Tensor]:
    """Positions of the queries' and keys' tokens in every tile of a round; -1 is a pad."""
    rows, rounds, length = inputs.order.shape
    shape = (rows, rounds, layout.per_round * layout.tile)
    if visibility.rule == "window":
        padded = inputs.order.new_full((rows, layout.per_round * layout.tile), -1)
        padded[:, :length] = inputs.order[:, index]
        queries = padded.view(rows, layout.per_round, layout.tile)
        edge = (0, 0, layout.before, layout.after)
        return queries, torch.nn.functional.pad(queries, edge, value=-1)
    padded = inputs.order.new_full(shape, -1)
    padded[..., :length] = inputs.order
    items = padded.view(rows, rounds * layout.per_round, layout.tile)
    first = index * layout.per_round
    chunks = torch.arange(
        first - layout.before, first + layout.per_round + layout.after, device=items.device
    )
    keys = items[:, chunks % items.shape[1]]
    return items[:, first : first + layout.per_round], keys


def _windows(keys: Tensor, layout: Layout) -> Tensor:
    """[G, before + tiles + after, T] to [G, tiles, span * T]: each tile beside its neighbours."""
    parts = [keys[:, o : o + layout.per_round] for o in range(layout.span)]
    return torch.cat(parts, dim=-1)


def round_of(
    inputs: Inputs, layout: Layout, visibility: Visibility, dropout: Dropout, index: int
) -> Round:
    rows, _, length = inputs.order.shape
    queries, keys = _tiles(inputs, layout, visibility, index)
    windows = _windows(keys, layout)
    visible = ((queries >= 0)[..., None]) & ((windows >= 0)[..., None, :])
    base = torch.arange(rows, device=queries.device).view(-1, 1, 1) * length

    def lookup(table: Tensor, positions: Tensor) -> Tensor:
        return table.reshape(-1)[base + positions.clamp(min=0)]

    if visibility.rule == "window":
        code = inputs.code[:, index].contiguous()
        visible &= _near(lookup(code, queries), lookup(code, windows), visibility)
        for earlier in range(index):
            code = inputs.code[:, earlier].contiguous()
            visible &= ~_near(lookup(code, queries), lookup(code, windows), visibility)
    else:
        visible &= _by_position(queries, windows, visibility)
        if inputs.segments is not None:
            theirs = lookup(inputs.segments, windows)[..., None, :]
            visible &= (lookup(inputs.segments, queries)[..., None] == theirs) & (theirs >= 0)
    keep = None
    if dropout.rate > 0:
        row = inputs.first_row + torch.arange(rows, device=queries.device).view(-1, 1, 1, 1)
        kept = pair_keep_mask(
            dropout.seed, row, queries[..., None], windows[..., None, :], dropout.rate
        )
        keep = kept.to(inputs.query.dtype).div_(1.0 - dropout.rate)
    pad = rows * length
    return Round(
        queries=torch.where(queries >= 0, queries + base, pad),
        keys=torch.where(keys >= 0, keys + base, pad),
        visible=visible,
        keep=keep,
    )


def _near(query_code: Tensor, key_code: Tensor, visibility: Visibility) -> Tensor:
    distance = query_code[..., None] - key_code[..., None, :]
    if not visibility.causal:
        distance = distance.abs()
    least = 0 if visibility.include_self else 1
    return (distance >= least) & (distance < visibility.length)


def _by_position(queries: Tensor, keys: Tensor, visibility: Visibility) -> Tensor:
    distance = queries[..., None] - keys[..., None, :]
    if not visibility.causal:
        distance = distance.abs()
    return distance >= (0 if visibility.include_self else 1)


def rows_of(x: Tensor, tokens: Tensor) -> Tensor:
    """Rows [G, tiles, T, K] of x [G, L, K]; a pad reads the last row, which is always masked."""
    flat = x.reshape(-1, x.shape[-1])
    return flat[tokens.clamp(max=flat.shape[0] - 1)]


def tile_scores(inputs: Inputs, layout: Layout, part: Round, scale: float) -> Tensor:
    query = rows_of(inputs.query, part.queries)
    key = rows_of(inputs.key, part.keys)
    tiles = layout.per_round
    scores = [query @ key[:, o : o + tiles].transpose(-1, -2) for o in range(layout.span)]
    return torch.where(part.visible, torch.cat(scores, dim=-1).mul_(scale), -torch.inf)


@dispatch.register("attention", "torch")
def attention_torch(
    query: Tensor,
    key: Tensor | None,
    value: Tensor,
    order: Tensor | None,
    code: Tensor | None,
    segment_ids: Tensor | None,
    visibility: Visibility,
    scale: float,
    dropout: Dropout,
) -> tuple[Tensor, Tensor]:
    """Forward of ``attend``: output [B, H, L, K] and lse [B, H, L]."""
    if visibility.gives_next:
        assert order is not None and code is not None, "attend has checked it"
        return attend_to_next(
            lambda given, plain: attention_torch(
                query, key, given, order, code, segment_ids, plain, scale, dropout
            ),
            value, order, code, segment_ids, visibility,
        )  # fmt: skip
    batch, heads, length, width = query.shape
    layout = Layout.of(visibility, length)
    out = query.new_empty(batch * heads, length, width)
    lse = query.new_empty(batch * heads, length, dtype=accumulation_dtype(query.dtype))
    for rows, inputs in slices_of(query, key, value, order, code, segment_ids, layout):
        total, normalizer = _combine_rounds(inputs, layout, visibility, scale, dropout)
        out[rows], lse[rows] = total.to(out.dtype), normalizer
    return out.view(query.shape), lse.view(batch, heads, length)


def _combine_rounds(
    inputs: Inputs, layout: Layout, visibility: Visibility, scale: float, dropout: Dropout
) -> tuple[Tensor, Tensor]:
    """Softmax over all rounds of a slice by a running maximum and sum."""
    rows, rounds, length = inputs.order.shape
    width = inputs.query.shape[-1]
    # One row more than tokens: pads write there.
    top = inputs.query.new_full((rows * length + 1,), -torch.inf)
    mass = inputs.query.new_zeros(rows * length + 1)
    total = inputs.query.new_zeros(rows * length + 1, width)
    clean = bool(torch.isfinite(inputs.value).all())
    for index in range(rounds):
        part = round_of(inputs, layout, visibility, dropout, index)
        scores = tile_scores(inputs, layout, part, scale)
        seen = part.queries.reshape(-1)
        old = top[seen].view(part.queries.shape)
        new = torch.maximum(old, scores.amax(dim=-1))
        anchor = torch.where(new == -torch.inf, 0.0, new)
        weights = (scores - anchor[..., None]).exp_()
        shrink = (old - anchor).exp()
        top[seen] = new.view(-1)
        mass[seen] = (mass[seen].view(new.shape) * shrink + weights.sum(dim=-1)).view(-1)
        if part.keep is not None:
            weights *= part.keep
        values = _weighted_values(inputs.value, part, layout, weights, clean)
        total[seen] = total[seen] * shrink.view(-1, 1) + values.view(-1, width)
    top, mass, total = (x[: rows * length] for x in (top, mass, total))
    alone = top == -torch.inf
    own_score = scale * (inputs.query * inputs.key).sum(dim=-1).view(-1)
    lse = torch.where(alone, own_score, top + mass.log())
    own_value = inputs.value.reshape(-1, width)
    out = torch.where(alone[:, None], own_value, total / mass[:, None])
    return out.view(rows, length, width), lse.view(rows, length)


def _weighted_values(
    value: Tensor, part: Round, layout: Layout, weights: Tensor, clean: bool
) -> Tensor:
    """weights @ values per tile; non-finite values reach only the queries that see them."""
    values = rows_of(value, part.keys)
    finite = values if clean else torch.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    tiles = layout.per_round
    total = torch.zeros_like(values[:, :tiles])
    for o, weight in enumerate(weights.split(layout.tile, dim=-1)):
        total += weight @ finite[:, o : o + tiles]
    if clean:
        return total
    visible = part.visible.to(value.dtype).split(layout.tile, dim=-1)
    for bad, name in (
        (values.isnan(), torch.nan),
        (values == torch.inf, torch.inf),
        (values == -torch.inf, -torch.inf),
    ):
        hits = sum(seen @ bad[:, o : o + tiles].to(value.dtype) for o, seen in enumerate(visible))
        total = total + torch.where(hits > 0, name, 0.0)  # inf - inf is NaN, as it should be
    return total

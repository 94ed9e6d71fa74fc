"""The backward of ``tiled``: the same tiles again, with the gradients of the attention op.

ds_ij = p_ij (do_i . v_j - do_i . o_i + dlse_i),   p_ij = exp(s_ij - lse_i)
"""

import math
from dataclasses import replace

import torch
from torch import Tensor

from reformer.ops import dispatch
from reformer.ops.attention import KEY_EPSILON, Dropout, Visibility
from reformer.ops.next_values import attend_to_next_backward
from reformer.ops.tiled import Inputs, Layout, round_of, rows_of, slices_of, tile_scores


@dispatch.register("attention_backward", "torch")
def attention_backward_torch(
    grad_out: Tensor,
    grad_lse: Tensor,
    out: Tensor,
    lse: Tensor,
    query: Tensor,
    key: Tensor | None,
    value: Tensor,
    order: Tensor | None,
    code: Tensor | None,
    segment_ids: Tensor | None,
    visibility: Visibility,
    scale: float,
    dropout: Dropout,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Gradients of query, key (None when shared) and value, each [B, H, L, K]."""
    if visibility.gives_next:
        assert order is not None and code is not None, "attend has checked it"
        return attend_to_next_backward(
            lambda upstream, given, plain: attention_backward_torch(
                upstream, grad_lse, out, lse, query, key, given, order, code, segment_ids,
                plain, scale, dropout,
            ),
            grad_out, value, order, code, segment_ids, visibility,
        )  # fmt: skip
    batch, heads, length, width = query.shape
    layout = Layout.of(visibility, length)
    flat = (batch * heads, length, width)
    grad_query, grad_key, grad_value = (query.new_empty(flat) for _ in range(3))
    for rows, inputs in slices_of(query, key, value, order, code, segment_ids, layout):
        dtype = inputs.query.dtype
        upstream = grad_out.reshape(flat)[rows].to(dtype)
        # delta_i - dlse_i: what the softmax backward subtracts from do_i . v_j.
        offset = (upstream * out.reshape(flat)[rows]).sum(dim=-1)
        offset = offset - grad_lse.reshape(batch * heads, length)[rows]
        normalizer = lse.reshape(batch * heads, length)[rows]
        dq, dk, dv = _isolated_gradients(
            inputs, layout, visibility, scale, dropout, upstream, offset, normalizer
        )
        if key is None:
            dq = dq + _normalize_key_backward(inputs.query, dk)
        grad_query[rows], grad_key[rows], grad_value[rows] = (
            x.to(query.dtype) for x in (dq, dk, dv)
        )
    shape = query.shape
    own_key = None if key is None else grad_key.view(shape)
    return grad_query.view(shape), own_key, grad_value.view(shape)


def _isolated_gradients(
    inputs: Inputs,
    layout: Layout,
    visibility: Visibility,
    scale: float,
    dropout: Dropout,
    upstream: Tensor,
    offset: Tensor,
    lse: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """``_gradients``, where a query that is not finite, in or out, spoils what it sees only.

    A query that sees a bad key or value is bad itself: its output or lse tells. What is bad
    is computed as zeros, since 0 * NaN would spoil its tile, and marked at the end.
    """
    finite = [x.isfinite().all(dim=-1, keepdim=True) for x in (inputs.key, inputs.value)]
    good = inputs.query.isfinite().all(dim=-1) & upstream.isfinite().all(dim=-1)
    bad = ~(good & offset.isfinite() & lse.isfinite())
    if not bad.any() and all(x.all() for x in finite):
        return _gradients(inputs, layout, visibility, scale, dropout, upstream, offset, lse)
    hidden = bad[..., None]
    zeroed = replace(
        inputs,
        query=inputs.query.masked_fill(hidden, 0.0),
        key=inputs.key.masked_fill(~finite[0], 0.0),
        value=inputs.value.masked_fill(~finite[1], 0.0),
    )
    dq, dk, dv = _gradients(
        zeroed, layout, visibility, scale, dropout, upstream.masked_fill(hidden, 0.0),
        offset.masked_fill(bad, 0.0), lse.masked_fill(bad, torch.inf),
    )  # fmt: skip
    seen = torch.cat((bad.view(-1), bad.new_zeros(1)))
    for index in range(inputs.order.shape[1]):
        part = round_of(inputs, layout, visibility, Dropout(), index)
        by_bad = part.visible & rows_of(hidden, part.queries)
        for o, near in enumerate(by_bad.any(dim=-2).split(layout.tile, dim=-1)):
            seen[part.keys[:, o : o + layout.per_round][near]] = True
    spoilt = seen[:-1].view(bad.shape)[..., None]
    return (
        dq.masked_fill(hidden, torch.nan),
        dk.masked_fill(spoilt, torch.nan),
        dv.masked_fill(spoilt, torch.nan),
    )


def _gradients(
    inputs: Inputs,
    layout: Layout,
    visibility: Visibility,
    scale: float,
    dropout: Dropout,
    upstream: Tensor,
    offset: Tensor,
    lse: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """dq, dk, dv [G, L, K] of one slice; dk is with respect to the keys as they were used."""
    rows, rounds, length = inputs.order.shape
    width = inputs.query.shape[-1]
    grads = [inputs.query.new_zeros(rows * length + 1, width) for _ in range(3)]
    grad_query, grad_key, grad_value = grads
    sees_any = torch.zeros(rows * length + 1, dtype=torch.bool, device=lse.device)
    for index in range(rounds):
        part = round_of(inputs, layout, visibility, dropout, index)
        scores = tile_scores(inputs, layout, part, scale)
        lse_tile = rows_of(lse[..., None], part.queries)
        weights = (scores - lse_tile).exp_()
        seen = part.queries.reshape(-1)
        sees_any[seen] |= part.visible.any(dim=-1).view(-1)
        up = rows_of(upstream, part.queries)
        value, key = rows_of(inputs.value, part.keys), rows_of(inputs.key, part.keys)
        tiles = layout.per_round
        grad_weights = torch.cat(
            [up @ value[:, o : o + tiles].transpose(-1, -2) for o in range(layout.span)], dim=-1
        )
        kept = weights
        if part.keep is not None:
            grad_weights *= part.keep
            kept = weights * part.keep
        grad_weights -= rows_of(offset[..., None], part.queries)
        grad_scores = grad_weights.mul_(weights).mul_(scale)
        query = rows_of(inputs.query, part.queries)
        tile_query, tile_key, tile_value = (torch.zeros_like(x) for x in (query, key, value))
        pieces = zip(
            grad_scores.split(layout.tile, dim=-1), kept.split(layout.tile, dim=-1), strict=True
        )
        for o, (grad_score, weight) in enumerate(pieces):
            near = slice(o, o + tiles)
            tile_query += grad_score @ key[:, near]
            tile_key[:, near] += grad_score.transpose(-1, -2) @ query
            tile_value[:, near] += weight.transpose(-1, -2) @ up
        grad_query.index_add_(0, seen, tile_query.view(-1, width))
        grad_key.index_add_(0, part.keys.reshape(-1), tile_key.view(-1, width))
        grad_value.index_add_(0, part.keys.reshape(-1), tile_value.view(-1, width))
    shape = (rows, length, width)
    dq, dk, dv = (grad[: rows * length].view(shape) for grad in grads)
    # A query that saw nobody took its own value with weight one; its lse is its own score.
    alone = (~sees_any[: rows * length]).view(rows, length, 1)
    upstream_alone = torch.where(alone, upstream, 0.0)
    own = torch.where(alone, _own_lse_gradient(upstream, inputs.value, offset), 0.0) * scale
    return dq + own * inputs.key, dk + own * inputs.query, dv + upstream_alone


def _own_lse_gradient(upstream: Tensor, value: Tensor, offset: Tensor) -> Tensor:
    """dlse [G, L, 1] of queries that see only themselves: do . v - offset."""
    return (upstream * value).sum(dim=-1, keepdim=True) - offset[..., None]


def _normalize_key_backward(query: Tensor, grad_key: Tensor) -> Tensor:
    """Gradient through k = q / sqrt(mean(q^2) + eps) / sqrt(K)."""
    width = query.shape[-1]
    inverse = torch.rsqrt(query.square().mean(dim=-1, keepdim=True) + KEY_EPSILON)
    along = (grad_key * query).sum(dim=-1, keepdim=True) / width
    return (grad_key - query * along * inverse.square()) * inverse / math.sqrt(width)

"""Attention over a sorted order: the one op behind local, window-rule and chunk-rule attention.

A query sees a set of keys, decided by integers alone (``Visibility``), and the output is one
softmax over that set:

    o_i = sum_j softmax_j(scale * q_i . k_j) v_j,    lse_i = log sum_j exp(scale * q_i . k_j)

Window rule: the set is the union over rounds, so each pair must count once. Paper eq. 16
subtracts log N_ij from the score in each of the N_ij rounds that show the pair; here the
first such round owns the pair and the others skip it, which is the same sum without a
logarithm. Chunk rule: every occurrence counts, as in the paper's published code.
A query whose set is empty sees itself alone.

Rounds are combined in place with a running maximum and sum, and the backward uses the total
``lse``: p_ij = exp(s_ij - lse_i) is the pair's share of the whole softmax, so the gradient
through every round's output and normaliser is ds_ij = p_ij (do_i . v_j - do_i . o_i + dlse_i).

With ``key=None`` queries and keys are one projection and keys have unit length (paper
section 2, "shared-QK"): k_j = q_j / sqrt(mean(q_j^2) + 1e-6) / sqrt(K).
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from reformer.ops import dispatch

KEY_EPSILON = 1e-6


class Visibility(NamedTuple):
    """Which pairs of tokens see each other, given their order and codes."""

    rule: str
    """"window": by codes, union over rounds. "chunk": neighbouring chunks of the order."""
    length: int
    """Window rule: W. Chunk rule: the chunk length."""
    causal: bool = True
    """Only earlier positions are visible."""
    include_self: bool = False
    """A query sees its own token too (separate keys); otherwise only when it sees no other."""
    before: int = 1
    """Chunk rule: number of earlier chunks seen."""
    after: int = 0
    """Chunk rule: number of later chunks seen."""
    gives_next: bool = False
    """Causal window rule with an order: a token gives its successor's value; next_values.py."""


class Dropout(NamedTuple):
    """Dropout of attended pairs; see ``randomness.pair_keep_mask``."""

    rate: float = 0.0
    seed: int = 0


def normalize_key(query_key: Tensor) -> Tensor:
    """Unit-length keys from the shared projection [..., K]; the epsilon is under the root."""
    mean_square = query_key.square().mean(dim=-1, keepdim=True)
    return query_key * torch.rsqrt(mean_square + KEY_EPSILON) / math.sqrt(query_key.shape[-1])


def attend(
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
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Softmax attention over the visible pairs.

    query, key, value: [B, H, L, K]; ``key=None`` shares the (normalised) query.
    order, code: [B, H, R, L] from ``sort_tokens``; None means one round in sequence order.
    segment_ids: [B, L], needed by the chunk rule and where tokens give their successors' values
    (window codes already carry them).
    Returns the output [B, H, L, K] in the query's dtype and ``lse`` [B, H, L] in float32
    (float64 for float64 input), both differentiable. Accumulates in the dtype of ``lse``.
    A non-finite key or value reaches exactly the queries that see it.
    """
    _check_attention(query, key, value, order, segment_ids)
    if not 0.0 <= dropout.rate < 1.0:
        raise ValueError(f"dropout.rate is {dropout.rate!r}: it must be from 0 up to, but not, 1")
    if visibility.gives_next:
        _check_next(order, visibility)
    if query.numel() == 0:
        return value.clone(), query.sum(dim=-1, dtype=accumulation_dtype(query.dtype))
    if dispatch.resolve(backend) == "reference":
        from reformer.ops.dense import attend_dense

        with torch.autocast(query.device.type, enabled=False):
            return attend_dense(
                query, key, value, order, code, visibility,
                segment_ids=segment_ids, scale=scale, dropout=dropout,
            )  # fmt: skip
    out, lse = _attention_op(
        query, key, value, order, code, segment_ids,
        *visibility, scale, dropout.rate, dropout.seed, backend,
    )  # fmt: skip
    return out, lse


def _check_attention(
    query: Tensor,
    key: Tensor | None,
    value: Tensor,
    order: Tensor | None,
    segment_ids: Tensor | None,
) -> None:
    if query.dim() != 4 or not query.is_floating_point():
        raise ValueError(
            f"query must be a float tensor [B, H, L, K], not {query.dtype} {list(query.shape)}"
        )
    for name, tensor in (("key", key), ("value", value)):
        if tensor is not None and (tensor.shape != query.shape or tensor.dtype != query.dtype):
            raise ValueError(
                f"{name} must match query ({query.dtype} {list(query.shape)}), "
                f"not {tensor.dtype} {list(tensor.shape)}"
            )
    batch, heads, length, _ = query.shape
    if order is not None and tuple(order.shape) != (batch, heads, *order.shape[2:3], length):
        raise ValueError(
            f"order must be [B, H, R, L] = [{batch}, {heads}, R, {length}], not {list(order.shape)}"
        )
    if segment_ids is not None and tuple(segment_ids.shape) != (batch, length):
        raise ValueError(
            f"segment_ids must be [{batch}, {length}] to match the tokens, "
            f"not {list(segment_ids.shape)}"
        )


def _check_next(order: Tensor | None, visibility: Visibility) -> None:
    rule, causal, include_self = visibility.rule, visibility.causal, visibility.include_self
    if rule != "window" or not causal or include_self or order is None:
        raise ValueError(
            "values of the next token need the causal window rule over an order, without "
            f"include_self, not rule={rule!r}, causal={causal}, include_self={include_self}"
        )


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, float32 for everything narrower."""
    return torch.float64 if dtype == torch.float64 else torch.float32


@torch.library.custom_op("reformer::attention", mutates_args=())
def _attention_op(
    query: Tensor,
    key: Tensor | None,
    value: Tensor,
    order: Tensor | None,
    code: Tensor | None,
    segment_ids: Tensor | None,
    rule: str,
    length: int,
    causal: bool,
    include_self: bool,
    before: int,
    after: int,
    gives_next: bool,
    scale: float,
    dropout_rate: float,
    dropout_seed: int,
    backend: str,
) -> tuple[Tensor, Tensor]:
    visibility = Visibility(rule, length, causal, include_self, before, after, gives_next)
    run = dispatch.implementation("attention", backend, query)
    # Autocast reaches into operators and would narrow the products that accumulate.
    with torch.autocast(query.device.type, enabled=False):
        out, lse = run(
            query, key, value, order, code, segment_ids,
            visibility, scale, Dropout(dropout_rate, dropout_seed),
        )  # fmt: skip
    return out, lse


@_attention_op.register_fake
def _(
    query: Tensor,
    key: Tensor | None,
    value: Tensor,
    order: Tensor | None,
    code: Tensor | None,
    segment_ids: Tensor | None,
    rule: str,
    length: int,
    causal: bool,
    include_self: bool,
    before: int,
    after: int,
    gives_next: bool,
    scale: float,
    dropout_rate: float,
    dropout_seed: int,
    backend: str,
) -> tuple[Tensor, Tensor]:
    lse = query.new_empty(query.shape[:3], dtype=accumulation_dtype(query.dtype))
    return query.new_empty(query.shape), lse


@torch.library.custom_op("reformer::attention_backward", mutates_args=())
def _attention_backward_op(
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
    rule: str,
    length: int,
    causal: bool,
    include_self: bool,
    before: int,
    after: int,
    gives_next: bool,
    scale: float,
    dropout_rate: float,
    dropout_seed: int,
    backend: str,
) -> list[Tensor]:
    visibility = Visibility(rule, length, causal, include_self, before, after, gives_next)
    run = dispatch.implementation("attention_backward", backend, query)
    with torch.autocast(query.device.type, enabled=False):
        grads = run(
            grad_out, grad_lse, out, lse, query, key, value, order, code, segment_ids,
            visibility, scale, Dropout(dropout_rate, dropout_seed),
        )  # fmt: skip
    return [grad for grad in grads if grad is not None]


@_attention_backward_op.register_fake
def _(
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
    rule: str,
    length: int,
    causal: bool,
    include_self: bool,
    before: int,
    after: int,
    gives_next: bool,
    scale: float,
    dropout_rate: float,
    dropout_seed: int,
    backend: str,
) -> list[Tensor]:
    count = 2 if key is None else 3
    return [query.new_empty(query.shape) for _ in range(count)]


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:6], *output)
    ctx.settings = inputs[6:]


def _backward(ctx: Any, grad_out: Tensor, grad_lse: Tensor) -> tuple[Any, ...]:
    query, key, value, order, code, segment_ids, out, lse = ctx.saved_tensors
    grads = _attention_backward_op(
        grad_out, grad_lse, out, lse, query, key, value, order, code, segment_ids, *ctx.settings
    )
    if key is None:
        grads = [grads[0], None, grads[1]]
    return (*grads, *[None] * (3 + len(ctx.settings)))


_attention_op.register_autograd(_backward, setup_context=_save_for_backward)

"""Values of the next token: who finds where the same was seen before reads what came after it.

With shared query-keys token i attends to tokens that are like itself. What i would like to know
is what followed them. So with ``Visibility.gives_next`` token j gives the value of j + 1:

    o_i = sum_j softmax_j(q_i . k_j) v_{j+1},    j < i

Nothing of the future is seen, as j + 1 <= i. A token that sees no other one reads its own value.
docs/decisions/0014-values-of-the-next-token.md

Here as attention to shifted values; the native kernels read and write one row further instead.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from reformer.ops.attention import Visibility

Forward = Callable[[Tensor, Visibility], tuple[Tensor, Tensor]]
"""From values and who sees whom to output and lse."""
Backward = Callable[[Tensor, Tensor, Visibility], tuple[Tensor, Tensor | None, Tensor]]
"""From upstream gradient, values and who sees whom to the gradients of query, key and value."""


def attend_to_next(
    attend: Forward,
    value: Tensor,
    order: Tensor,
    code: Tensor,
    segment_ids: Tensor | None,
    visibility: Visibility,
) -> tuple[Tensor, Tensor]:
    """Attention with ``gives_next`` by one without."""
    given = _following(value, segment_ids)
    out, lse = attend(given, visibility._replace(gives_next=False))
    alone = _sees_nobody(order, code, visibility.length)
    out[alone] = value[alone]
    return out, lse


def attend_to_next_backward(
    differentiate: Backward,
    grad_out: Tensor,
    value: Tensor,
    order: Tensor,
    code: Tensor,
    segment_ids: Tensor | None,
    visibility: Visibility,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """The gradients of ``attend_to_next``."""
    alone = _sees_nobody(order, code, visibility.length)
    given = _following(value, segment_ids)
    upstream = grad_out.masked_fill(alone[..., None], 0.0)
    grads = differentiate(upstream, given, visibility._replace(gives_next=False))
    grad_value = torch.zeros_like(grads[2])
    grad_value[:, :, 1:] = _where_followed(grads[2], segment_ids)[:, :, :-1]
    grad_value[alone] += grad_out[alone]
    return grads[0], grads[1], grad_value


def _following(value: Tensor, segment_ids: Tensor | None) -> Tensor:
    """value [B, H, L, K] with each token's successor in its place.

    Zeros for the last token of a sequence or segment, whom nobody of its own sees.
    """
    shifted = torch.cat((value[:, :, 1:], torch.zeros_like(value[:, :, :1])), dim=2)
    return _where_followed(shifted, segment_ids)


def _where_followed(rows: Tensor, segment_ids: Tensor | None) -> Tensor:
    """rows [B, H, L, K], but zeros where the next token is of another segment [B, L]."""
    if segment_ids is None:
        return rows
    goes_on = torch.zeros_like(segment_ids, dtype=torch.bool)
    goes_on[:, :-1] = segment_ids[:, 1:] == segment_ids[:, :-1]
    return torch.where(goes_on[:, None, :, None], rows, 0.0)


def _sees_nobody(order: Tensor, code: Tensor, window_length: int) -> Tensor:
    """Whether no round shows a token any other, in causal attention: bool [B, H, L].

    order, code: [B, H, R, L] from ``sort_tokens``. Round by round: scratch does not grow with R.
    """
    alone = torch.ones(code.shape[:2] + code.shape[3:], dtype=torch.bool, device=code.device)
    for places, codes in zip(order.unbind(2), code.unbind(2), strict=True):
        places = places.long()
        steps = codes.gather(-1, places).diff(dim=-1)
        begins = torch.ones_like(alone)
        begins[..., 1:] = steps >= window_length
        alone &= torch.zeros_like(alone).scatter_(-1, places, begins)
    return alone

"""Values of the next token: who finds where the same was seen before reads what came after it.

With shared query-keys token i attends to tokens that are like itself. What i would like to know
is what followed them. So with ``values="next"`` token j gives the value of j + 1:

    o_i = sum_j softmax_j(q_i . k_j) v_{j+1},    j < i

Nothing of the future is seen, as j + 1 <= i. A token that sees no other one reads its own value.
docs/decisions/0014-values-of-the-next-token.md
"""

import torch
from torch import Tensor


def next_values(value: Tensor, segment_ids: Tensor | None) -> Tensor:
    """value [B, H, L, K] with each token's successor in its place.

    The last token, and one whose successor is of another segment [B, L], keep their own.
    """
    following = torch.cat((value[:, :, 1:], value[:, :, -1:]), dim=2)
    if segment_ids is None:
        return following
    goes_on = torch.zeros_like(segment_ids, dtype=torch.bool)
    goes_on[:, :-1] = segment_ids[:, 1:] == segment_ids[:, :-1]
    return torch.where(goes_on[:, None, :, None], following, value)


def sees_nobody(order: Tensor, code: Tensor, window_length: int) -> Tensor:
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

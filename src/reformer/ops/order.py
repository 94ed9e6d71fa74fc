"""The sorted order of tokens, and the code by which one comparison decides what a query sees.

``order_r`` is the stable sort of the tokens by (segment, bucket_r, position). With
``rank_r(i)`` the place of token i in it, the window rule uses

    code_r(i) = rank_r(i) + W * (index of the run of equal (segment, bucket) that holds i)

so tokens of different runs are at least W apart, and i sees j iff 0 < code(i) - code(j) < W.
Padding (a negative segment) comes last, every padding token in a run of its own: it sees
nobody and nobody sees it.
"""

import torch
from torch import Tensor

from reformer.ops import dispatch


def sort_tokens(
    buckets: Tensor,
    window_length: int,
    *,
    segment_ids: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Order and window codes of every round.

    buckets: [B, H, R, L], any integer type, non-negative. segment_ids: [B, L] integers;
    tokens see only their own segment, and a negative id marks padding.
    Returns order and code, both [B, H, R, L]: order[…, p] is the token at place p,
    code[…, i] is the code of token i. int32, or int64 where a code can pass 2^31.
    """
    if buckets.dim() != 4:
        raise ValueError(f"buckets must be [B, H, R, L], not {list(buckets.shape)}")
    batch, _, _, length = buckets.shape
    if segment_ids is not None and tuple(segment_ids.shape) != (batch, length):
        raise ValueError(
            f"segment_ids must be [{batch}, {length}] to match the tokens, "
            f"not {list(segment_ids.shape)}"
        )
    order, code = _sort_op(buckets, segment_ids, window_length, backend)
    return order, code


def code_dtype(length: int, window_length: int) -> torch.dtype:
    """int32 while the largest possible code, length * (W + 1), stays below 2^31."""
    return torch.int32 if length * (window_length + 1) < 2**31 else torch.int64


@torch.library.custom_op("reformer::sort_tokens", mutates_args=())
def _sort_op(
    buckets: Tensor, segment_ids: Tensor | None, window_length: int, backend: str
) -> tuple[Tensor, Tensor]:
    run = dispatch.implementation("sort_tokens", backend, buckets)
    order, code = run(buckets, segment_ids, window_length)
    return order, code


@_sort_op.register_fake
def _(
    buckets: Tensor, segment_ids: Tensor | None, window_length: int, backend: str
) -> tuple[Tensor, Tensor]:
    dtype = code_dtype(buckets.shape[-1], window_length)
    return buckets.new_empty(buckets.shape, dtype=dtype), buckets.new_empty(
        buckets.shape, dtype=dtype
    )


@dispatch.register("sort_tokens", "torch")
def sort_tokens_torch(
    buckets: Tensor, segment_ids: Tensor | None, window_length: int
) -> tuple[Tensor, Tensor]:
    """The definition: one stable sort, then a running count of the runs."""
    keys = buckets.to(torch.int64)
    padding = torch.zeros((), dtype=torch.bool, device=buckets.device)
    if segment_ids is not None:
        padding = (segment_ids < 0)[:, None, None, :].expand_as(keys)
        # Ids of any size become 0, 1, …, so that the products below cannot pass 2^63.
        _, segments = segment_ids.unique(return_inverse=True)
        stride = int(keys.max()) + 1 if keys.numel() else 1
        keys = keys + segments[:, None, None, :] * stride
        keys = keys.masked_fill(padding, torch.iinfo(torch.int64).max)
    sorted_keys, order = keys.sort(dim=-1, stable=True)
    starts = torch.ones_like(sorted_keys)
    starts[..., 1:] = sorted_keys[..., 1:] != sorted_keys[..., :-1]
    starts[..., 1:] |= (sorted_keys == torch.iinfo(torch.int64).max).to(starts.dtype)[..., 1:]
    run = starts.cumsum(dim=-1) - 1
    rank = torch.arange(keys.shape[-1], device=keys.device)
    sorted_code = rank + window_length * run
    code = torch.empty_like(sorted_code).scatter_(-1, order, sorted_code)
    dtype = code_dtype(keys.shape[-1], window_length)
    return order.to(dtype), code.to(dtype)

"""LSH attention and local attention: the paper's section 2 as two functions.

hash the shared query-keys, sort by bucket, attend within windows of the order, and
combine the rounds in one softmax.
"""

import torch
from torch import Tensor

from reformer.ops.attention import Dropout, Visibility, attend
from reformer.ops.hashing import (
    DrawRotations,
    bucket_factors,
    default_num_buckets,
    draw_rotations,
    hash_vectors,
)
from reformer.ops.order import sort_tokens


def hash_buckets(
    query_key: Tensor,
    *,
    num_hashes: int = 4,
    window_length: int = 64,
    num_buckets: int | tuple[int, ...] | None = None,
    seed: int = 0,
    draw: DrawRotations = draw_rotations,
    backend: str = "auto",
) -> Tensor:
    """Hash query_key [B, H, L, K] to buckets [B, H, R, L]; the arguments of ``lsh_attention``.

    draw: what makes rotations of the seed; ``published_rotations`` makes the paper's.
    """
    _check_tokens("query_key", query_key)
    _check_whole("num_hashes", num_hashes, least=1)
    _check_whole("window_length", window_length, least=1)
    _, heads, length, width = query_key.shape
    count = default_num_buckets(length, window_length) if num_buckets is None else num_buckets
    factors = bucket_factors(count)
    rotations = draw(heads, width, num_hashes, factors, seed)
    return hash_vectors(query_key, rotations.to(query_key.device), factors, backend=backend)


def lsh_attention(
    query_key: Tensor,
    value: Tensor,
    *,
    num_hashes: int = 4,
    window_length: int = 64,
    num_buckets: int | tuple[int, ...] | None = None,
    causal: bool = True,
    rule: str = "window",
    seed: int = 0,
    segment_ids: Tensor | None = None,
    backend: str = "auto",
    buckets: Tensor | None = None,
    chunks_before: int = 1,
    chunks_after: int | None = None,
    score_scale: float = 1.0,
    dropout: Dropout = Dropout(),
    values: str = "own",
) -> Tensor:
    """Attention of each token to the tokens that share a hash bucket with it.

    query_key, value: float [B, H, L, K], any L from 1 up. Returns [B, H, L, K].
    num_hashes: rounds R. window_length: W, or the chunk length under rule="chunk".
    num_buckets: N per round, even or 1, or a tuple of even factors; None: about 2 L / W.
    rule: "window" shows a query its last W - 1 bucket mates (both sides when not causal);
    "chunk" shows neighbouring chunks of the sorted order, as the paper's code does.
    seed: names the hash rotations. segment_ids: [B, L], tokens see their own segment only;
    a negative id is padding. buckets: [B, H, R, L] from ``hash_buckets``, to hash only once.
    chunks_before, chunks_after: chunk rule only; after defaults to 0, or 1 when not causal.
    values: "own", or "next": causal window rule only, a token gives the value of the one after it.
    """
    after = (0 if causal else 1) if chunks_after is None else chunks_after
    _check_rule(rule, window_length, chunks_before, after)
    _check_values(values, rule, causal)
    _check_tokens("query_key", query_key)
    if buckets is None:
        buckets = hash_buckets(
            query_key, num_hashes=num_hashes, window_length=window_length,
            num_buckets=num_buckets, seed=seed, backend=backend,
        )  # fmt: skip
    order, code = sort_tokens(buckets, window_length, segment_ids=segment_ids, backend=backend)
    visibility = Visibility(
        rule, window_length, causal, False, chunks_before, after, values == "next"
    )
    out, _ = attend(
        query_key, None, value, order, code, visibility,
        segment_ids=segment_ids, scale=score_scale, dropout=dropout, backend=backend,
    )  # fmt: skip
    return out


def local_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    window_length: int,
    causal: bool = True,
    rule: str = "window",
    segment_ids: Tensor | None = None,
    backend: str = "auto",
    chunks_before: int = 1,
    chunks_after: int | None = None,
    dropout: Dropout = Dropout(),
) -> Tensor:
    """Sliding-window attention: each token sees itself and its W - 1 predecessors.

    query, key, value: float [B, H, L, K], any L from 1 up. Returns [B, H, L, K]. Not causal:
    W - 1 tokens on both sides. Scores are scaled by 1 / sqrt(K). segment_ids, rule and chunk
    arguments as in ``lsh_attention``.
    """
    after = (0 if causal else 1) if chunks_after is None else chunks_after
    _check_rule(rule, window_length, chunks_before, after)
    _check_tokens("query", query)
    order = code = None
    # Chunks are cut from the sequence as it stands: padding keeps its place there.
    if segment_ids is not None and rule == "window":
        batch, _, length, _ = query.shape
        one_bucket = torch.zeros((batch, 1, 1, length), dtype=torch.uint8, device=query.device)
        order, code = sort_tokens(
            one_bucket, window_length, segment_ids=segment_ids, backend=backend
        )
        shape = (batch, query.shape[1], 1, length)
        order, code = order.expand(shape), code.expand(shape)
    visibility = Visibility(rule, window_length, causal, True, chunks_before, after)
    out, _ = attend(
        query, key, value, order, code, visibility,
        segment_ids=segment_ids, scale=query.shape[-1] ** -0.5, dropout=dropout, backend=backend,
    )  # fmt: skip
    return out


def _check_tokens(name: str, tensor: Tensor) -> None:
    if tensor.dim() != 4 or not tensor.is_floating_point():
        raise ValueError(
            f"{name} must be a float tensor [B, H, L, K], not {tensor.dtype} {list(tensor.shape)}"
        )


def _check_rule(rule: str, window_length: int, before: int, after: int) -> None:
    if rule not in ("window", "chunk"):
        raise ValueError(f"rule is {rule!r}: use 'window' or 'chunk'")
    _check_whole("window_length", window_length, least=1)
    _check_whole("chunks_before", before, least=0)
    _check_whole("chunks_after", after, least=0)


def _check_values(values: str, rule: str, causal: bool) -> None:
    if values not in ("own", "next"):
        raise ValueError(f"values is {values!r}: use 'own' or 'next'")
    if values == "next" and not (causal and rule == "window"):
        raise ValueError("values is 'next': that needs causal=True and rule='window'")


def _check_whole(name: str, value: int, least: int) -> None:
    if not isinstance(value, int) or not least <= value < 2**31:
        raise ValueError(f"{name} is {value!r}: it must be a whole number from {least} to 2^31 - 1")

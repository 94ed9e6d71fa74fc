"""Attention of new tokens to a growing context, at a cost that the context does not change.

Under the causal window rule a token sees, per round, the last W - 1 earlier tokens of its
bucket. Each token therefore keeps one link per head and round,

    link_r(t) = max { j < t : bucket_r(j) = bucket_r(t) },   -1 where there is none,

and finds its set by R walks of at most W - 1 links. Links depend on the past only: they are
written when a token is appended, never change, and undoing the last tokens needs nothing but
their own links. A table holds the last token of every bucket, where the next one links to.
Local attention is the same with the W latest tokens as the set, itself included.

New tokens of all sequences are packed end to end, [T, H, K]: no padding anywhere.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from reformer.ops import dispatch
from reformer.ops.attention import accumulation_dtype, normalize_key
from reformer.ops.lsh_attention import local_attention, lsh_attention
from reformer.ops.token_store import Field, SegmentedStore

# Elements of the keys that one slice of queries gathers in the torch path: 16 MB in float32.
_SLICE_ELEMENTS = 1 << 22
# From this many tokens on, the training path begins an empty sequence.
_LEAST_PREFILL = 128


class LinkedTokens(NamedTuple):
    """What an LSH layer keeps of one sequence."""

    store: SegmentedStore
    """key, value: [H, K]; link, bucket: int32 [H, R]."""
    last: Tensor
    """The last token of every bucket: int32 [H, R, N], -1 where there is none."""

    def fork(self) -> "LinkedTokens":
        """An independent copy, which shares what is held now."""
        return LinkedTokens(self.store.fork(), self.last.clone())

    def truncate(self, length: int) -> None:
        """Drop the tokens from number ``length`` on; costs what is dropped."""
        store, last = self
        if length >= store.length:
            return
        buckets = store.slice("bucket", length, store.length).permute(1, 2, 0)
        links = store.slice("link", length, store.length).permute(1, 2, 0)
        # Along a bucket links only rise, so the least one belongs to the first dropped token.
        last.scatter_reduce_(-1, buckets.long(), links, "amin", include_self=False)
        store.truncate(length)


def linked_tokens(
    num_heads: int,
    head_size: int,
    num_hashes: int,
    num_buckets: int,
    dtype: torch.dtype,
    device: torch.device,
) -> LinkedTokens:
    """An empty sequence of an LSH layer."""
    vector = Field((num_heads, head_size), dtype)
    number = Field((num_heads, num_hashes), torch.int32)
    store = SegmentedStore(
        {"key": vector, "value": vector, "link": number, "bucket": number}, device
    )
    shape = (num_heads, num_hashes, num_buckets)
    last = torch.full(shape, -1, dtype=torch.int32, device=device)
    return LinkedTokens(store, last)


def windowed_tokens(
    num_heads: int, head_size: int, dtype: torch.dtype, device: torch.device
) -> SegmentedStore:
    """An empty sequence of a local or full layer."""
    vector = Field((num_heads, head_size), dtype)
    return SegmentedStore({"key": vector, "value": vector}, device)


def append_linked(
    query_key: Tensor,
    value: Tensor,
    buckets: Tensor,
    sequences: Sequence[LinkedTokens],
    counts: Sequence[int],
    *,
    window_length: int,
    scale: float = 1.0,
    values: str = "own",
    backend: str = "auto",
) -> Tensor:
    """Append tokens to sequences of an LSH layer, and attend from each to what it sees.

    query_key, value: [T, H, K]; buckets: integer [T, H, R]; counts: how many of the T tokens
    belong to each sequence, in order. Returns [T, H, K]; the sequences grow in place.
    A token that sees nobody sees itself. values: as in ``lsh_attention``. The result of a token
    is the same in whatever portions it and its predecessors were appended.
    """
    run = dispatch.implementation("append_linked", backend, query_key)
    out = torch.empty_like(value)
    for begins, rows, group, sizes in _portions([s.store.length for s in sequences], counts):
        chosen = [sequences[index] for index in group]
        parts = query_key[rows], value[rows], buckets[rows]
        if begins:
            out[rows] = _begin_linked(*parts, chosen[0], window_length, scale, values, backend)
        else:
            out[rows] = run(*parts, chosen, sizes, window_length, scale, values)
    return out


def append_windowed(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sequences: Sequence[SegmentedStore],
    counts: Sequence[int],
    *,
    window_length: int,
    backend: str = "auto",
) -> Tensor:
    """As ``append_linked`` for local attention: a token sees itself and W - 1 predecessors.

    Scores are scaled by 1 / sqrt(K).
    """
    run = dispatch.implementation("append_windowed", backend, query)
    out = torch.empty_like(value)
    for begins, rows, group, sizes in _portions([s.length for s in sequences], counts):
        chosen = [sequences[index] for index in group]
        parts = query[rows], key[rows], value[rows]
        if begins:
            out[rows] = _begin_windowed(*parts, chosen[0], window_length, backend)
        else:
            out[rows] = run(*parts, chosen, sizes, window_length)
    return out


class _Portion(NamedTuple):
    """Neighbouring sequences that are handled in one go."""

    begins: bool
    """One sequence, empty so far, with many tokens: the training path is faster."""
    rows: slice
    members: list[int]
    counts: list[int]


def _portions(lengths: Sequence[int], counts: Sequence[int]) -> Iterator[_Portion]:
    group = _Portion(False, slice(0, 0), [], [])
    for index, rows in enumerate(packed_rows(counts)):
        begins = lengths[index] == 0 and counts[index] >= _LEAST_PREFILL
        if begins:
            if group.members:
                yield group
            yield _Portion(True, rows, [index], [counts[index]])
            group = _Portion(False, slice(rows.stop, rows.stop), [], [])
        else:
            whole = slice(group.rows.start, rows.stop)
            group = _Portion(False, whole, [*group.members, index], [*group.counts, counts[index]])
    if group.members:
        yield group


def packed_rows(counts: Sequence[int]) -> Iterator[slice]:
    """Which of the packed tokens belong to each sequence."""
    start = 0
    for count in counts:
        yield slice(start, start + count)
        start += count


def _begin_linked(
    query_key: Tensor,
    value: Tensor,
    buckets: Tensor,
    sequence: LinkedTokens,
    window_length: int,
    scale: float,
    values: str,
    backend: str,
) -> Tensor:
    out = lsh_attention(
        query_key.transpose(0, 1)[None],
        value.transpose(0, 1)[None],
        buckets=buckets.permute(1, 2, 0)[None],
        window_length=window_length,
        score_scale=scale,
        values=values,
        backend=backend,
    )
    write_linked(query_key, value, buckets, sequence)
    return out[0].transpose(0, 1)


def _begin_windowed(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    store: SegmentedStore,
    window_length: int,
    backend: str,
) -> Tensor:
    heads_first = (part.transpose(0, 1)[None] for part in (query, key, value))
    window_length = min(window_length, query.shape[0])
    out = local_attention(*heads_first, window_length=window_length, backend=backend)
    store.append({"key": key, "value": value})
    return out[0].transpose(0, 1)


def write_linked(query_key: Tensor, value: Tensor, buckets: Tensor, sequence: LinkedTokens) -> None:
    """Append tokens ([n, H, K] and [n, H, R]) to one sequence."""
    store, last = sequence
    link = link_tokens(buckets.permute(1, 2, 0).long(), last, store.length).permute(2, 0, 1)
    wide = query_key.to(accumulation_dtype(query_key.dtype))
    key = normalize_key(wide).to(query_key.dtype)
    store.append({"key": key, "value": value, "link": link, "bucket": buckets})


@dispatch.register("append_linked", "torch")
def append_linked_torch(
    query_key: Tensor,
    value: Tensor,
    buckets: Tensor,
    sequences: Sequence[LinkedTokens],
    counts: Sequence[int],
    window_length: int,
    scale: float,
    values: str,
) -> Tensor:
    """The definition, one sequence after the other."""
    out = torch.empty_like(value)
    for sequence, rows in zip(sequences, packed_rows(counts), strict=True):
        store, start = sequence.store, sequence.store.length
        write_linked(query_key[rows], value[rows], buckets[rows], sequence)
        width = buckets.shape[-1] * (window_length - 1)
        for part in _slices(rows, width * math.prod(query_key.shape[1:])):
            tokens = slice(start + part.start - rows.start, start + part.stop - rows.start)
            seen = walk_links(store, tokens.start, tokens.stop, window_length)
            out[part] = _attend(store, query_key[part], seen, tokens.start, scale, values)
    return out


@dispatch.register("append_windowed", "torch")
def append_windowed_torch(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sequences: Sequence[SegmentedStore],
    counts: Sequence[int],
    window_length: int,
) -> Tensor:
    """The definition, one sequence after the other."""
    out = torch.empty_like(value)
    scale = query.shape[-1] ** -0.5
    for store, rows in zip(sequences, packed_rows(counts), strict=True):
        start = store.length
        store.append({"key": key[rows], "value": value[rows]})
        width = min(window_length, store.length)
        for part in _slices(rows, width * math.prod(query.shape[1:])):
            first = start + part.start - rows.start
            tokens = torch.arange(first, first + part.stop - part.start, device=query.device)
            offsets = torch.arange(width, device=query.device)
            seen = (tokens[:, None] - offsets).clamp(min=-1)
            seen = seen[:, None].expand(-1, query.shape[1], -1)
            out[part] = _attend(store, query[part], seen, first, scale, "own")
    return out


def _slices(rows: slice, elements_per_token: int) -> Iterator[slice]:
    step = max(1, _SLICE_ELEMENTS // max(1, elements_per_token))
    for start in range(rows.start, rows.stop, step):
        yield slice(start, min(start + step, rows.stop))


def link_tokens(buckets: Tensor, last: Tensor, start: int) -> Tensor:
    """Links of the new tokens start, start + 1, …; ``last`` is brought up to date.

    buckets: int64 [H, R, n]; last: int32 [H, R, N]. Returns int32 [H, R, n].
    """
    ordered, order = buckets.sort(dim=-1, stable=True)
    tokens = (order + start).to(torch.int32)
    link = last.gather(-1, ordered)
    same = ordered[..., 1:] == ordered[..., :-1]
    link[..., 1:] = torch.where(same, tokens[..., :-1], link[..., 1:])
    last.scatter_reduce_(-1, ordered, tokens, "amax")
    return torch.empty_like(link).scatter_(-1, order, link)


def walk_links(store: SegmentedStore, start: int, end: int, window_length: int) -> Tensor:
    """The tokens that start … end - 1 see: int64 [n, H, R * S], -1 where none."""
    current = store.slice("link", start, end).long()
    heads = torch.arange(current.shape[1], device=current.device)[:, None]
    rounds = torch.arange(current.shape[2], device=current.device)
    steps = []
    for _ in range(window_length - 1):
        if not bool((current >= 0).any()):
            break
        steps.append(current)
        following = store.gather("link", current.clamp(min=store.first), heads, rounds)
        current = torch.where(current >= 0, following.long(), -1)
    if not steps:
        return torch.full_like(current[..., :1], -1)
    seen = torch.cat(steps, dim=-1).sort(dim=-1, descending=True).values
    seen[..., 1:] = torch.where(seen[..., 1:] == seen[..., :-1], -1, seen[..., 1:])
    return seen


def _attend(
    store: SegmentedStore, query: Tensor, seen: Tensor, first: int, scale: float, values: str
) -> Tensor:
    """Softmax attention of query [n, H, K], tokens first, first + 1, …, to seen [n, H, C]."""
    dtype = accumulation_dtype(query.dtype)
    alone = (seen < 0).all(dim=-1)
    own = torch.arange(first, first + query.shape[0], device=query.device)[:, None]
    seen = seen.clone()
    seen[..., 0] = torch.where(alone, own, seen[..., 0])
    heads = torch.arange(query.shape[1], device=query.device)[:, None]
    held = seen.clamp(min=store.first)
    key = store.gather("key", held, heads).to(dtype)
    scores = scale * torch.einsum("nhk,nhck->nhc", query.to(dtype), key)
    weights = scores.masked_fill(seen < 0, -math.inf).softmax(dim=-1)
    if values == "next":
        held = torch.where(alone[..., None], held, held + 1)
    value = store.gather("value", held, heads).to(dtype)
    # A non-finite value must not reach tokens that do not see it through 0 * inf.
    value = torch.where((seen < 0)[..., None], 0.0, value)
    return torch.einsum("nhc,nhck->nhk", weights, value).to(query.dtype)

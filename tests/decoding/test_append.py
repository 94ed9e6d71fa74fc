"""Appending to cached sequences: against a loop over sets, on every backend, bit for bit."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reformer.ops import dispatch
from reformer.ops.attention import normalize_key
from reformer.ops.decode import append_linked, append_windowed, linked_tokens, windowed_tokens
from reformer.ops.randomness import generator

CPU = torch.device("cpu")
NATIVE = dispatch.refusal("append_linked", "cpu", torch.zeros(1)) is None
BACKENDS = ["torch", pytest.param("cpu", marks=pytest.mark.skipif(not NATIVE, reason="no kernels"))]
SIZES = st.fixed_dictionaries(
    {
        "heads": st.integers(1, 3),
        "width": st.sampled_from([1, 3, 8, 16, 20, 64]),
        "rounds": st.integers(1, 4),
        "num_buckets": st.integers(1, 9),
        "window": st.integers(1, 20),
        "lengths": st.lists(st.integers(0, 70), min_size=1, max_size=4),
        "seed": st.integers(0, 1000),
    }
)


def _draw(heads, width, rounds, num_buckets, lengths, seed, **_):
    rng = generator(seed)
    total = sum(lengths)
    vectors = torch.randn(3, total, heads, width, generator=rng, dtype=torch.float64)
    buckets = torch.randint(0, num_buckets, (total, heads, rounds), generator=rng)
    return *vectors, buckets


def _seen(buckets, token, window):
    """The set of a token in one head's buckets [n, R], by the rule's own words."""
    seen = set()
    for column in buckets[: token + 1].T.tolist():
        mates = [j for j in range(token) if column[j] == column[token]]
        seen.update(mates[max(0, len(mates) - (window - 1)) :])
    return sorted(seen) or [token]


def _attend(query, keys, values, scale):
    weights = (scale * keys @ query).softmax(-1)
    return weights @ values


def _linked_by_loops(query_key, value, buckets, lengths, window, scale, ahead):
    out = torch.empty_like(value)
    start = 0
    for length in lengths:
        rows = slice(start, start + length)
        keys = normalize_key(query_key[rows])
        for token in range(length):
            for head in range(value.shape[1]):
                seen = _seen(buckets[rows, head], token, window)
                given = [j if j == token else j + ahead for j in seen]
                out[start + token, head] = _attend(
                    query_key[start + token, head],
                    keys[seen, head],
                    value[rows][given, head],
                    scale,
                )
        start += length
    return out


def _append_in_two(append, tensors, lengths, sequences, cut):
    """All sequences' tokens, in two calls that cut each sequence at a share ``cut``."""
    first = [math.ceil(length * cut) for length in lengths]
    starts = [sum(lengths[:n]) for n in range(len(lengths))]
    parts = []
    for begin, end in ((0, first), (first, lengths)):
        begins = [0] * len(lengths) if begin == 0 else begin
        places = [
            torch.arange(start + b, start + e)
            for start, b, e in zip(starts, begins, end, strict=True)
        ]
        counts = [len(place) for place in places]
        out = append(*(tensor[torch.cat(places)] for tensor in tensors), sequences, counts)
        parts.append((torch.cat(places), out))
    whole = torch.empty_like(tensors[1])
    for places, out in parts:
        whole[places] = out
    return whole


@pytest.mark.parametrize("backend", BACKENDS)
@given(SIZES, st.floats(0, 1), st.sampled_from(["own", "next"]))
def test_linked_tokens_see_their_last_bucket_mates(backend, sizes, cut, values):
    dtype = torch.float64 if backend == "torch" else torch.float32
    query_key, value, _, buckets = _draw(**sizes)
    wanted = _linked_by_loops(
        query_key, value, buckets, sizes["lengths"], sizes["window"], 1.5, int(values == "next")
    )
    heads, width, rounds = sizes["heads"], sizes["width"], sizes["rounds"]
    sequences = [
        linked_tokens(heads, width, rounds, sizes["num_buckets"], dtype, CPU)
        for _ in sizes["lengths"]
    ]

    def append(query_key, value, buckets, sequences, counts):
        return append_linked(
            query_key, value, buckets, sequences, counts,
            window_length=sizes["window"], scale=1.5, values=values, backend=backend,
        )  # fmt: skip

    tensors = (query_key.to(dtype), value.to(dtype), buckets)
    got = _append_in_two(append, tensors, sizes["lengths"], sequences, cut)
    close = 1e-12 if dtype == torch.float64 else 2e-5
    torch.testing.assert_close(got.double(), wanted, rtol=0, atol=close)


@pytest.mark.parametrize("backend", BACKENDS)
@given(SIZES, st.floats(0, 1))
def test_windowed_tokens_see_the_latest(backend, sizes, cut):
    dtype = torch.float64 if backend == "torch" else torch.float32
    query, key, value, _ = _draw(**sizes)
    heads, width, window = sizes["heads"], sizes["width"], sizes["window"]
    wanted, start = torch.empty_like(value), 0
    for length in sizes["lengths"]:
        for token in range(length):
            seen = slice(start + max(0, token - window + 1), start + token + 1)
            for head in range(heads):
                wanted[start + token, head] = _attend(
                    query[start + token, head], key[seen, head], value[seen, head], width**-0.5
                )
        start += length
    sequences = [windowed_tokens(heads, width, dtype, CPU) for _ in sizes["lengths"]]

    def append(query, key, value, sequences, counts):
        return append_windowed(
            query, key, value, sequences, counts, window_length=window, backend=backend
        )

    tensors = (query.to(dtype), key.to(dtype), value.to(dtype))
    got = _append_in_two(append, tensors, sizes["lengths"], sequences, cut)
    close = 1e-12 if dtype == torch.float64 else 2e-5
    torch.testing.assert_close(got.double(), wanted, rtol=0, atol=close)


@pytest.mark.skipif(not NATIVE, reason="no kernels")
def test_native_results_do_not_depend_on_threads_portions_or_neighbours():
    lengths = [120, 100, 90]  # short enough that the training path begins none
    query_key, value, _, buckets = _draw(2, 16, 3, 4, lengths, 1)
    query_key, value = query_key.float(), value.float()

    def run(portion, threads, alone):
        torch.set_num_threads(threads)
        try:
            parts = []
            start = 0
            for length in lengths if alone else [None]:
                sizes = [length] if alone else lengths
                sequences = [linked_tokens(2, 16, 3, 4, torch.float32, CPU) for _ in sizes]
                rows = [slice(start, start + length)] if alone else [
                    slice(sum(lengths[:n]), sum(lengths[: n + 1])) for n in range(3)
                ]  # fmt: skip
                done = [[] for _ in sizes]
                for begin in range(0, max(sizes), portion):
                    pieces = [
                        range(r.start + begin, min(r.start + begin + portion, r.stop)) for r in rows
                    ]
                    places = torch.tensor([p for piece in pieces for p in piece])
                    out = append_linked(
                        query_key[places], value[places], buckets[places], sequences,
                        [len(piece) for piece in pieces], window_length=12, backend="cpu",
                    )  # fmt: skip
                    for row, part in zip(done, out.split([len(p) for p in pieces]), strict=True):
                        row.append(part)
                parts += [torch.cat(row) for row in done]
                start += length or 0
            return torch.cat(parts)
        finally:
            torch.set_num_threads(1)

    one = run(1, 1, alone=True)
    for portion, threads, alone in ((120, 2, True), (120, 1, False), (7, 2, False), (1, 1, False)):
        assert torch.equal(run(portion, threads, alone), one)


@pytest.mark.skipif(not NATIVE, reason="no kernels")
def test_a_bad_token_reaches_only_who_sees_it():
    query_key, value, _, _ = _draw(1, 8, 1, 2, [20], 3)
    buckets = (torch.arange(20) % 2)[:, None, None]
    value[4] = math.nan
    for backend in ("torch", "cpu"):
        sequence = linked_tokens(1, 8, 1, 2, torch.float32, CPU)
        out = append_linked(
            query_key.float(), value.float(), buckets, [sequence], [20],
            window_length=4, backend=backend,
        )  # fmt: skip
        spoiled = out.isnan().any(-1).any(-1).nonzero().flatten().tolist()
        assert spoiled == [6, 8, 10]

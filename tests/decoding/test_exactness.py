"""Cached decoding is the forward pass: the same logits at every position, however it is cut."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reformer import LSH, ConfigError, Local
from reformer.generation.extend import extend, extend_all, new_cache, unpadded
from reformer.nn.cache import CacheError, DecodeCache
from reformer.nn.streams import StreamRangeError
from reformer.ops.decode import LinkedTokens
from reformer.ops.lsh_attention import hash_buckets

from .models import LAYERS, make_model, random_ids, whole_logits

# The streams' grid in float64 is 2^-44; sums in another order may round to the next point.
CLOSE = {"rtol": 0, "atol": 1e-10}


def _in_portions(model, ids, portions):
    cache = new_cache(model)
    parts, start = [], 0
    for portion in portions:
        parts += extend_all(model, [ids[start : start + portion]], cache)
        start += portion
    assert start == len(ids)
    assert cache.rows[0].input_ids == ids
    return torch.cat(parts)


@pytest.mark.parametrize("layers", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize(
    "portions",
    [[1] * 40, [150, 1, 1, 1], [129, 64, 1, 7], [5, 127, 130, 2], [1], [700]],
    ids=str,
)
def test_every_position_has_the_logits_of_the_whole(layers, portions):
    model = make_model(layers)
    ids = random_ids(sum(portions))
    torch.testing.assert_close(
        _in_portions(model, ids, portions), whole_logits(model, ids), **CLOSE
    )


@given(st.lists(st.integers(1, 90), min_size=1, max_size=8), st.integers(0, 5))
def test_any_portions(portions, seed):
    model = make_model(LAYERS["mixed"])
    ids = random_ids(sum(portions), seed)
    torch.testing.assert_close(
        _in_portions(model, ids, portions), whole_logits(model, ids), **CLOSE
    )


@pytest.mark.parametrize("streams", ["exact", "float", "stored"])
def test_float32_agrees_to_rounding(streams):
    model = make_model(LAYERS["mixed"], torch.float32, init_scale=0.02, streams=streams)
    ids = random_ids(400)
    got, whole = _in_portions(model, ids, [200] + [1] * 200), whole_logits(model, ids)
    torch.testing.assert_close(got, whole, rtol=0, atol=1e-5)
    assert torch.equal(got.argmax(-1), whole.argmax(-1))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_five_thousand_tokens(dtype, monkeypatch):
    """In float32 a hash can fall between two buckets; both sides must then take the same one."""
    lsh = LSH(num_hashes=4, window_length=32)
    layers = (Local(64, rotary_base=10000.0), lsh, *LAYERS["full"], lsh)
    model = make_model(layers, dtype, max_length=5000, init_scale=0.02, slice_length=1500)
    ids = random_ids(5000)
    cache = new_cache(model)
    cuts = [0, 3000, *range(3001, 3500), 4000, 5000]
    portions = [ids[start:end] for start, end in pairwise(cuts)]
    got = torch.cat([extend_all(model, [portion], cache)[0] for portion in portions])
    _tell_the_hashes_of(cache, monkeypatch, 1e-4 if dtype == torch.float32 else 1e-9)
    whole = whole_logits(model, ids)
    torch.testing.assert_close(got, whole, rtol=0, atol=1e-5 if dtype == torch.float32 else 1e-10)
    assert torch.equal(got.argmax(-1), whole.argmax(-1))


def _tell_the_hashes_of(cache, monkeypatch, most):
    """From here on whole passes, left padded, hash as the cache did; they differ by ``most``."""
    length = max(cache.lengths)
    layers = list(zip(*([k for k in row.layers if isinstance(k, LinkedTokens)]
                        for row in cache.rows), strict=True))  # fmt: skip
    asked = [0]

    def hash_as_cached(*args, **settings):
        own = hash_buckets(*args, **settings)
        held = layers[asked[0] % len(layers)]
        asked[0] += 1
        buckets, flips, hashes = own.clone(), 0, 0
        for row, kept in enumerate(held):
            count = kept.store.length
            told = kept.store.slice("bucket", 0, count).permute(1, 2, 0).to(own.dtype)
            buckets[row, ..., length - count :] = told
            flips += int((told != own[row, ..., length - count :]).sum())
            hashes += told.numel()
        assert flips <= most * hashes
        return buckets

    monkeypatch.setattr("reformer.nn.attention.hash_buckets", hash_as_cached)


@pytest.mark.slow
@pytest.mark.parametrize("layers", LAYERS.values(), ids=LAYERS)
def test_unequal_rows_of_up_to_five_thousand_tokens_in_float32(layers, monkeypatch):
    """Against one pass over the left-padded batch, which takes the same choices."""
    model = make_model(layers, torch.float32, max_length=5000, init_scale=0.02, slice_length=1500)
    rows = [random_ids(length, length) for length in (5000, 1, 2, 63, 777, 3001)]
    padded = torch.zeros(len(rows), 5000, dtype=torch.int64)
    mask = torch.zeros_like(padded)
    for row, ids in enumerate(rows):
        padded[row, 5000 - len(ids) :] = torch.tensor(ids)
        mask[row, 5000 - len(ids) :] = 1
    cache = new_cache(model, len(rows))
    parts = [[] for _ in rows]
    for start, end in [(0, 0.5), (0.5, 0.9), (0.9, 0.99), (0.99, 1)]:
        portions = [ids[int(len(ids) * start) : int(len(ids) * end)] for ids in rows]
        for part, got in zip(parts, extend_all(model, portions, cache), strict=True):
            part.append(got)
    _tell_the_hashes_of(cache, monkeypatch, 1e-4)
    with torch.no_grad():
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        whole = model(padded, segment_ids=mask - 1, positions=positions).logits
    for row, ids in enumerate(rows):
        wanted, got = whole[row, 5000 - len(ids) :], torch.cat(parts[row])
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)
        assert torch.equal(got.argmax(-1), wanted.argmax(-1))


def test_unequal_rows_are_what_they_are_alone():
    model = make_model(LAYERS["mixed"])
    rows = [random_ids(length, seed) for seed, length in enumerate([1, 300, 37, 131])]
    more = [random_ids(length, seed + 9) for seed, length in enumerate([140, 1, 0, 5])]
    cache = new_cache(model, len(rows))
    first = extend_all(model, rows, cache)
    second = extend_all(model, more, cache)
    for row, ids in enumerate(rows):
        whole = whole_logits(model, ids + more[row])
        torch.testing.assert_close(torch.cat((first[row], second[row])), whole, **CLOSE)


def test_rows_come_and_go():
    model = make_model(LAYERS["mixed"])
    a, b = random_ids(50, 1), random_ids(30, 2)
    cache = new_cache(model, 2)
    extend(model, [a[:20], b[:25]], cache)
    row_a, row_b = cache.rows
    extend(model, [a[20:49]], cache.with_rows([row_a]))
    got = extend(model, [b[25:], [7], a[49:]], cache.with_rows([row_b, cache.new_row(), row_a]))
    want = [whole_logits(model, ids)[-1] for ids in (b, [7], a)]
    torch.testing.assert_close(got, torch.stack(want), **CLOSE)


def test_left_padding_changes_nothing():
    model = make_model(LAYERS["mixed"])
    rows = [random_ids(60, 1), random_ids(23, 2), random_ids(1, 3)]
    padded = torch.zeros(3, 60, dtype=torch.int64)
    mask = torch.zeros(3, 60, dtype=torch.int64)
    for row, ids in enumerate(rows):
        padded[row, 60 - len(ids) :] = torch.tensor(ids)
        mask[row, 60 - len(ids) :] = 1
    with torch.no_grad():
        logits = model(
            padded,
            segment_ids=mask - 1,
            positions=(mask.cumsum(-1) - 1).clamp(min=0),
        ).logits
    assert unpadded(padded, mask) == rows
    got = extend(model, unpadded(padded, mask), new_cache(model, 3))
    torch.testing.assert_close(got, logits[:, -1], **CLOSE)


@pytest.mark.parametrize("layers", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize(("length", "kept"), [(300, 299), (300, 170), (40, 0), (5, 5)])
def test_truncating_is_as_if_the_rest_had_never_been(layers, length, kept):
    model = make_model(layers)
    ids, other = random_ids(length, 1), random_ids(60, 2)
    cache = new_cache(model)
    for start in range(0, length, 50):
        extend(model, [ids[start : start + 50]], cache)
    cache.truncate(kept)
    assert cache.lengths == [kept]
    (got,) = extend_all(model, [other], cache)
    whole = whole_logits(model, ids[:kept] + other)
    torch.testing.assert_close(got, whole[kept:], **CLOSE)


@pytest.mark.parametrize("layers", LAYERS.values(), ids=LAYERS)
def test_forks_go_their_own_ways(layers):
    model = make_model(layers)
    trunk = random_ids(290)
    cache = new_cache(model)
    extend(model, [trunk], cache)
    copies = cache.fork(3)
    copies.rows[2].truncate(200)
    tails = [random_ids(length, seed + 1) for seed, length in enumerate([20, 3, 150])]
    got = extend_all(model, tails, copies)
    late = extend_all(model, [[5, 6]], cache)
    for row, (kept, tail) in enumerate(zip([290, 290, 200], tails, strict=True)):
        whole = whole_logits(model, trunk[:kept] + tail)
        torch.testing.assert_close(got[row], whole[kept:], **CLOSE)
    torch.testing.assert_close(late[0], whole_logits(model, [*trunk, 5, 6])[290:], **CLOSE)


def test_many_forks_and_truncations_stay_exact_and_small():
    model = make_model(LAYERS["mixed"])
    cache, ids = new_cache(model), []
    for turn in range(60):
        tail = random_ids(20, turn)
        extend(model, [tail], cache)
        cache = cache.fork()
        cache.truncate(len(ids) + 15)
        ids += tail[:15]
    torch.testing.assert_close(
        extend(model, [[1]], cache)[0], whole_logits(model, [*ids, 1])[-1], **CLOSE
    )
    stores = [getattr(layer, "store", layer) for layer in cache.rows[0].layers]
    assert max(len(store.segments) for store in stores) <= 4


def test_local_layers_hold_a_window_not_the_past():
    model = make_model((Local(window_length=16),), max_length=40000, slice_length=40000)
    cache = new_cache(model, undo_length=100)
    for _ in range(6):
        extend(model, [random_ids(5000)], cache)
    held = cache.rows[0].layers[0]
    assert held.length == 30000
    assert held.first > 0
    cache.truncate(29950)
    ids = cache.rows[0].input_ids
    got = extend(model, [[3]], cache)[0]
    torch.testing.assert_close(got, whole_logits(model, [*ids[:29950], 3])[-1], **CLOSE)
    with pytest.raises(CacheError, match="can be cut to 29851"):
        cache.truncate(20)


def test_a_failed_append_leaves_the_cache_as_it_was():
    model = make_model(LAYERS["mixed"])
    ids = random_ids(40)
    cache = new_cache(model)
    extend(model, [ids], cache)
    output = model.reformer.blocks[2].feed_forward.output
    output.weight.data *= 1e30
    with pytest.raises(StreamRangeError):
        extend(model, [[1, 2, 3]], cache)
    output.weight.data /= 1e30
    assert cache.lengths == [40]
    got = extend(model, [[4]], cache)[0]
    torch.testing.assert_close(got, whole_logits(model, [*ids, 4])[-1], **CLOSE)


def test_what_cannot_be_done_is_said():
    model = make_model(LAYERS["lsh"], max_length=10)
    cache = new_cache(model)
    extend(model, [[1] * 8], cache)
    with pytest.raises(CacheError, match="8 tokens cannot take 3 more"):
        extend(model, [[1, 2, 3]], cache)
    with pytest.raises(ValueError, match="id 61"):
        extend(model, [[61]], cache)
    with pytest.raises(ValueError, match="empty row"):
        extend(model, [[]], cache)
    with pytest.raises(ValueError, match="2 rows"):
        extend(model, [[1], [2]], cache)
    assert cache.lengths == [8]
    chunked = make_model((LSH(rule="chunk"),)).config
    with pytest.raises(ConfigError, match="rule='chunk'"):
        DecodeCache(chunked)

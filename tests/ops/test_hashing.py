"""Angular hashing against a loop written from the formula, and what must never change it."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from reformer.ops.hashing import (
    DrawRotations,
    Rotations,
    bucket_factors,
    default_num_buckets,
    draw_rotations,
    first_projections,
    hash_vectors,
    published_rotations,
    smallest_integer,
)
from reformer.ops.lsh_attention import hash_buckets


def buckets_by_loop(vectors: Tensor, rotations: Rotations, factors: tuple[int, ...]) -> np.ndarray:
    """h(x) = argmax([x G; -x G]) for every factor, one vector at a time in float64."""
    x, g = vectors.double().numpy(), rotations.matrix.double().numpy()
    batch, heads, length, _ = x.shape
    rounds = g.shape[2]
    buckets = np.zeros((batch, heads, rounds, length), dtype=np.int64)
    for b, h, r, t in np.ndindex(buckets.shape):
        projected = x[b, h, t] @ g[h, :, r]
        stride, start = 1, 0
        for factor in factors:
            half = projected[start : start + factor // 2]
            start += factor // 2
            if factor > 1:
                buckets[b, h, r, t] += stride * int(np.argmax(np.concatenate([half, -half])))
            stride *= factor
    return buckets


def some_vectors(
    batch: int = 2, heads: int = 3, length: int = 37, width: int = 8, seed: int = 0
) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, heads, length, width, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("factors", [(2,), (8,), (64,), (4, 6), (2, 4, 8), (6, 2), (1, 4), (384,)])
@pytest.mark.parametrize("num_hashes", [1, 3])
def test_every_bucket_is_the_argmax_of_its_projections(
    factors: tuple[int, ...], num_hashes: int
) -> None:
    vectors = some_vectors()
    rotations = draw_rotations(3, 8, num_hashes, factors, seed=5)
    found = hash_vectors(vectors, rotations, factors, backend="torch")
    assert np.array_equal(found.numpy(), buckets_by_loop(vectors, rotations, factors))
    assert int(found.max()) < math.prod(factors)


@pytest.mark.parametrize("length", [1, 2, 63, 1000])
def test_any_length_hashes_and_slices_leave_no_seam(
    length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = some_vectors(length=length)
    rotations = draw_rotations(3, 8, 2, (8,), seed=1)
    whole = hash_vectors(vectors, rotations, (8,), backend="torch")
    monkeypatch.setattr("reformer.ops.hashing._SLICE_ELEMENTS", 500)
    assert torch.equal(whole, hash_vectors(vectors, rotations, (8,), backend="torch"))


def test_scale_and_memory_layout_do_not_matter() -> None:
    vectors = some_vectors()
    expected = hash_buckets(vectors, num_buckets=(4, 8), seed=3)
    for scale in (2.0**-30, 0.5, 2.0**30):
        assert torch.equal(hash_buckets(vectors * scale, num_buckets=(4, 8), seed=3), expected)
    positions_first = vectors.permute(2, 0, 1, 3).contiguous().permute(1, 2, 0, 3)
    every_other = torch.stack([vectors, vectors], dim=-1).flatten(-2)[..., ::2]
    for strided in (positions_first, every_other):
        assert not strided.is_contiguous()
        assert torch.equal(hash_buckets(strided, num_buckets=(4, 8), seed=3), expected)


def test_a_seed_names_the_buckets_and_the_global_generator_stays_where_it_was() -> None:
    vectors = some_vectors(length=200)
    torch.manual_seed(11)
    before = torch.get_rng_state()
    first = hash_buckets(vectors, num_buckets=16, seed=7)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert torch.equal(hash_buckets(vectors, num_buckets=16, seed=7), first)
    assert not torch.equal(hash_buckets(vectors, num_buckets=16, seed=8), first)


def test_published_rotations_are_normal_and_independent_between_seeds_heads_and_rounds() -> None:
    first = published_rotations(4, 32, 4, (64,), seed=0).matrix
    assert first.dtype == torch.float32 and first.shape == (4, 32, 4, 32)
    assert abs(float(first.mean())) < 0.03 and abs(float(first.std()) - 1) < 0.03
    draws = [published_rotations(4, 32, 4, (64,), seed=seed).matrix for seed in range(3)]
    assert_independent(draws)


def assert_independent(draws: list[torch.Tensor]) -> None:
    """Between draws, heads and rounds, as far as correlation tells."""
    streams = torch.cat([draw.permute(0, 2, 1, 3).flatten(0, 1).flatten(1) for draw in draws])
    correlation = torch.corrcoef(streams) - torch.eye(len(streams))
    assert float(correlation.abs().max()) < 5 / math.sqrt(streams.shape[1])


@pytest.mark.parametrize("factors", [(64,), (8, 8), (32, 16, 16)])
def test_rotations_are_of_one_length_and_independent(factors: tuple[int, ...]) -> None:
    draws = [draw_rotations(4, 24, 4, factors, seed=seed).matrix for seed in range(3)]
    assert draws[0].dtype == torch.float32 and draws[0].shape == (4, 24, 4, sum(factors) // 2)
    assert torch.allclose(draws[0].norm(dim=1), torch.ones(4, 4, sum(factors) // 2))
    assert_independent(draws)


@pytest.mark.parametrize("width", [24, 32])
@pytest.mark.parametrize(("factors", "whole"), [((8, 8), 8), ((32, 16, 16), 32), ((16,) * 6, 48)])
def test_rotations_of_several_factors_stand_at_right_angles(
    width: int, factors: tuple[int, ...], whole: int
) -> None:
    """As many of them as the head is wide: the next ones begin anew."""
    rotations = draw_rotations(2, width, 3, factors, seed=1).matrix
    for part in rotations.transpose(1, 2).split(width, dim=-1):
        count = part.shape[-1]
        assert torch.allclose(part.mT @ part, torch.eye(count).expand(2, 3, -1, -1), atol=1e-5)
    assert rotations.shape[-1] == whole


@pytest.mark.parametrize("width", [16, 32, 64, 128])
@pytest.mark.parametrize("factors", [(2,), (14,), (64,), (16, 16), (32, 32, 32), (500,), (1,)])
def test_rotations_are_the_product_of_their_signs(width: int, factors: tuple[int, ...]) -> None:
    """S_0 H S_1 H S_b H, whatever fits into a block: by matrices in float64."""
    matrix, signs = draw_rotations(2, width, 5, factors, seed=3)
    assert signs is not None and set(signs.unique().tolist()) == {-1.0, 1.0}
    hadamard = torch.ones(1, 1, dtype=torch.float64)
    while len(hadamard) < width:
        hadamard = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]]).double(), hadamard)
    hadamard /= math.sqrt(width)
    diagonals, count = torch.diag_embed(signs.double()), sum(factors) // 2
    shared = diagonals[:, 0] @ hadamard @ diagonals[:, 1] @ hadamard
    blocks = [shared @ diagonals[:, b] @ hadamard for b in range(2, signs.shape[1])]
    wanted = torch.cat([shared[..., :0], *blocks], dim=-1)
    for index, place in enumerate(first_projections(5, count, width)):
        part = wanted[..., place : place + count]
        assert torch.allclose(matrix[:, :, index].double(), part, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("factors", [(32,), (128,), (16, 16), (32, 32)])
def test_one_round_finds_what_another_misses(factors: tuple[int, ...]) -> None:
    """Rounds of one head share signs. Pairs at a cosine of 0.9 meet in as many rounds as if each
    were drawn by itself: the number is as spread as a binomial one, or less."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(2, 1, 4, 5000, 64, generator=generator)
    vectors = functional.normalize(drawn[0], dim=-1)
    noise = drawn[1] - (drawn[1] * vectors).sum(dim=-1, keepdim=True) * vectors
    close = 0.9 * vectors + math.sqrt(1 - 0.9**2) * functional.normalize(noise, dim=-1)
    rotations = draw_rotations(4, 64, 8, factors, seed=0)
    met = hash_vectors(vectors, rotations, factors) == hash_vectors(close, rotations, factors)
    share, rounds = float(met.float().mean()), met.float().sum(dim=2)
    assert 0.9 < float(rounds.var()) / (8 * share * (1 - share)) < 1.05


@pytest.mark.parametrize("width", [200, 256])
def test_rotations_are_the_same_bits_for_any_number_of_threads(width: int) -> None:
    before = torch.get_num_threads()
    try:
        draws = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            draws.append(draw_rotations(2, width, 4, (64, 64, 64), seed=3).matrix)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(draws[0], draws[1]) and torch.equal(draws[0], draws[2])


@pytest.mark.parametrize("num_buckets", [64, 128, (16, 16), (16, 16, 8), (32, 32, 32)])
def test_vectors_without_a_direction_fill_all_buckets_alike(
    num_buckets: int | tuple[int, ...],
) -> None:
    """Strangers meet as often as N even buckets would have it; published rotations let them
    meet 1.2 to 2.7 times as often. Close vectors, at a cosine of 0.9, meet as often with both."""
    factors = bucket_factors(num_buckets)
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(1, 1, 20000, 64, generator=generator)
    noise = torch.randn(1, 1, 20000, 64, generator=generator)
    close = 0.9 * vectors + math.sqrt(1 - 0.9**2) * noise

    def meetings(draw: DrawRotations) -> tuple[float, float]:
        rotations = draw(1, 64, 8, factors, 0)
        buckets = hash_vectors(vectors, rotations, factors)[0, 0].long()
        sizes = torch.stack([torch.bincount(b, minlength=math.prod(factors)) for b in buckets])
        strangers = float((sizes * (sizes - 1.0)).sum()) / (8 * 20000 * 19999)
        friends = hash_vectors(close, rotations, factors)[0, 0] == buckets
        return strangers * math.prod(factors), float(friends.float().mean())

    strangers, friends = meetings(draw_rotations)
    published_strangers, published_friends = meetings(published_rotations)
    assert abs(strangers - 1) < 0.03 and published_strangers > 1.15
    assert friends > 0.95 * published_friends


@pytest.mark.parametrize(
    ("num_buckets", "dtype"),
    [
        (2, torch.uint8),
        (256, torch.uint8),
        (258, torch.int16),
        (2**15, torch.int16),
        (2**15 + 2, torch.int32),
        (2**31, torch.int32),
        (2**31 + 2, torch.int64),
    ],
)
def test_buckets_are_kept_in_the_smallest_integer_that_holds_them(
    num_buckets: int, dtype: torch.dtype
) -> None:
    assert smallest_integer(num_buckets) == dtype
    assert torch.iinfo(dtype).max >= num_buckets - 1


def test_hashing_returns_the_smallest_integer() -> None:
    vectors = some_vectors(batch=1, heads=1, length=3)
    assert hash_buckets(vectors, num_buckets=(16, 16)).dtype == torch.uint8
    assert hash_buckets(vectors, num_buckets=(16, 32)).dtype == torch.int16


def test_one_bucket_holds_everything() -> None:
    buckets = hash_buckets(some_vectors(), num_hashes=2, num_buckets=1)
    assert buckets.shape == (2, 3, 2, 37) and not buckets.any()


@pytest.mark.parametrize("num_buckets", [0, -2, 3, 129, (4, 3), (2, -4), ()])
def test_bucket_numbers_that_cannot_be_halved_are_refused(
    num_buckets: int | tuple[int, ...],
) -> None:
    with pytest.raises(ValueError, match="num_buckets"):
        hash_buckets(some_vectors(), num_buckets=num_buckets)


def test_shapes_that_do_not_fit_are_refused_by_name() -> None:
    vectors, rotations = some_vectors(), draw_rotations(3, 8, 2, (8,), seed=0)
    with pytest.raises(ValueError, match="vectors must be a float tensor"):
        hash_vectors(vectors.long(), rotations, (8,))
    with pytest.raises(ValueError, match="rotations must be"):
        hash_vectors(vectors, rotations, (16,))
    with pytest.raises(ValueError, match="rotations must be"):
        hash_vectors(vectors[..., :4], rotations, (8,))


@pytest.mark.parametrize("num_buckets", [2**k for k in range(1, 22)])
def test_large_powers_of_two_are_factorised_into_even_factors(num_buckets: int) -> None:
    factors = bucket_factors(num_buckets)
    assert math.prod(factors) == num_buckets
    assert all(factor % 2 == 0 for factor in factors)
    if num_buckets <= 128:
        assert factors == (num_buckets,)
    else:
        assert max(factors) <= 32 and max(factors) <= 2 * min(factors)
        assert len(factors) == math.ceil(math.log2(num_buckets) / 5)


@pytest.mark.parametrize(("length", "window"), [(1, 64), (64, 64), (1000, 7), (65536, 64)])
def test_the_default_number_of_buckets_is_about_two_per_window(length: int, window: int) -> None:
    count = default_num_buckets(length, window)
    assert count >= 2 and count & (count - 1) == 0
    wanted = max(2.0, 2 * length / window)
    assert wanted / math.sqrt(2) <= count <= wanted * math.sqrt(2)


def test_autocast_does_not_change_a_bucket() -> None:
    vectors = some_vectors(length=500).float()
    expected = buckets_by_loop(vectors, draw_rotations(3, 8, 2, (64,), seed=0), (64,))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = hash_buckets(vectors, num_hashes=2, num_buckets=64)
    assert np.array_equal(found.numpy(), expected)


def test_vectors_that_are_not_finite_get_a_valid_bucket_and_disturb_nobody() -> None:
    vectors = some_vectors(batch=1, heads=1)
    clean = hash_buckets(vectors, num_buckets=(4, 4))
    spoilt = vectors.clone()
    spoilt[0, 0, 5], spoilt[0, 0, 6, 0], spoilt[0, 0, 7] = torch.nan, torch.inf, 0.0
    found = hash_buckets(spoilt, num_buckets=(4, 4))
    assert int(found.min()) >= 0 and int(found.max()) < 16
    others = [t for t in range(37) if t not in (5, 6, 7)]
    assert torch.equal(found[..., others], clean[..., others])


def test_buckets_carry_no_gradient() -> None:
    vectors = some_vectors().requires_grad_()
    assert not hash_buckets(vectors, num_buckets=8).requires_grad


def test_near_vectors_share_buckets_more_often_than_far_ones() -> None:
    vectors = some_vectors(batch=1, heads=1, length=2000, width=16)
    noise = some_vectors(batch=1, heads=1, length=2000, width=16, seed=1)
    shares = []
    for amount in (0.0, 0.1, 0.5, 2.0):
        moved = hash_buckets(vectors + amount * noise, num_buckets=16, num_hashes=8)
        same = moved == hash_buckets(vectors, num_buckets=16, num_hashes=8)
        shares.append(float(same.double().mean()))
    assert shares[0] == 1.0
    assert shares == sorted(shares, reverse=True) and shares[-1] < 0.4

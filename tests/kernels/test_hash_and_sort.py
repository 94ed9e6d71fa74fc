"""Hashing and sorting against their definitions in plain torch."""

import math
import random

import pytest
import torch
from torch import Tensor

from reformer.kernels import cpu
from reformer.ops.hashing import Rotations, draw_rotations, hash_vectors_torch
from reformer.ops.order import sort_tokens_torch


def projections(vectors: Tensor, rotations: Tensor) -> Tensor:
    """[B, H, R, L, P] in float64."""
    return torch.einsum("bhlk,hkrp->bhrlp", vectors.double(), rotations.double())


def assert_hashed(vectors: Tensor, rotations: Rotations, factors: list[int]) -> None:
    """Every factor of every bucket is the largest projection, to rounding."""
    found = cpu.hash_vectors(vectors, *rotations, factors)
    reference = hash_vectors_torch(vectors, *rotations, factors)
    assert found.dtype == reference.dtype and found.shape == reference.shape
    projected, offset, rest = projections(vectors, rotations.matrix), 0, found.long()
    assert (rest >= 0).all() and (rest < math.prod(factors)).all()
    for factor in factors:
        part = projected[..., offset : offset + factor // 2]
        sides = torch.cat((part, -part), dim=-1)
        chosen = sides.gather(-1, (rest % factor)[..., None])[..., 0]
        most = sides.amax(dim=-1)
        assert (chosen >= most - 1e-5 * most.abs().clamp(min=1)).all()
        offset, rest = offset + factor // 2, rest // factor
    assert float((found == reference).float().mean()) > 0.99


@pytest.mark.parametrize("factors", [[2], [4], [14], [128], [8, 6], [64, 32], [16, 4, 10], [500]])
def test_buckets_are_the_largest_projections(build: str, factors: list[int]) -> None:
    for seed, (batch, heads, length, width, rounds) in enumerate(
        [
            (1, 1, 1, 1, 1),
            (2, 3, 33, 20, 2),
            (1, 2, 100, 64, 3),
            (1, 1, 50, 130, 1),
            (2, 2, 40, 16, 5),
            (1, 3, 17, 32, 2),
            (1, 1, 30, 128, 9),
            (1, 2, 16, 256, 1),
        ]
    ):
        generator = torch.Generator().manual_seed(seed)
        vectors = torch.randn(batch, length, heads, width, generator=generator).transpose(1, 2)
        rotations = draw_rotations(heads, width, rounds, tuple(factors), seed=seed)
        assert_hashed(vectors, rotations, factors)
        assert_hashed(vectors.bfloat16(), rotations, factors)
        assert_hashed(vectors, Rotations(rotations.matrix), factors)


def test_of_equal_projections_the_first_wins(build: str) -> None:
    """Small integers, so that sums are exact and ties are many; as torch's argmax of [x; -x]."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randint(-1, 2, (1, 2, 200, 8), generator=generator).float()
    rotations = torch.randint(-1, 2, (2, 8, 3, 10), generator=generator).float()
    for factors in ([20], [4, 16], [8, 12]):
        found = cpu.hash_vectors(vectors, rotations, None, factors)
        assert torch.equal(found, hash_vectors_torch(vectors, rotations, None, factors))
    assert not cpu.hash_vectors(torch.zeros(1, 2, 5, 8), rotations, None, [20]).any()


@pytest.mark.parametrize("width", [24, 64])
def test_a_bucket_depends_on_its_vector_alone(build: str, width: int) -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(3, 2, 70, width, generator=generator)
    rotations = draw_rotations(2, width, 4, (16, 8), seed=1)
    whole = cpu.hash_vectors(vectors, *rotations, [16, 8])
    for begin, end in ((0, 1), (3, 20), (69, 70)):
        part = cpu.hash_vectors(vectors[1:2, :, begin:end], *rotations, [16, 8])
        assert torch.equal(part, whole[1:2, :, :, begin:end])


@pytest.mark.parametrize("width", [8, 16])
def test_vectors_that_are_not_finite_land_in_valid_buckets(build: str, width: int) -> None:
    vectors = torch.tensor([math.nan, math.inf, -math.inf, 1e38]).expand(width, 4).T
    rotations = draw_rotations(1, width, 5, (6, 4), seed=0)
    found = cpu.hash_vectors(vectors[None, None], *rotations, [6, 4]).long()
    assert (found >= 0).all() and (found < 24).all()


def random_segments(
    chance: random.Random, generator: torch.Generator, shape: tuple[int, int]
) -> Tensor:
    low, high = chance.choice([(-1, 3), (0, 2), (-(2**40), 2**62), (-3, 100)])
    return torch.randint(low, high, shape, generator=generator)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_order_and_codes_are_those_of_a_stable_sort(build: str, dtype: torch.dtype) -> None:
    for seed in range(40):
        chance, generator = random.Random(seed), torch.Generator().manual_seed(seed)
        batch, heads, rounds = (chance.randint(1, 3) for _ in range(3))
        length = chance.choice([1, 2, chance.randint(3, 30), chance.randint(30, 2000)])
        most = min(chance.choice([1, 2, 100, 2**15, 2**40]), torch.iinfo(dtype).max)
        buckets = torch.randint(0, most, (batch, heads, rounds, length), generator=generator).to(
            dtype
        )
        segments = random_segments(chance, generator, (batch, length)) if seed % 2 else None
        window = chance.choice([1, 64, 2**31])
        if seed % 3 == 0:
            buckets = buckets.transpose(1, 2).contiguous().transpose(1, 2)
        found = cpu.sort_tokens(buckets, segments, window)
        wanted = sort_tokens_torch(buckets, segments, window)
        for result, reference in zip(found, wanted, strict=True):
            assert result.dtype == reference.dtype
            assert torch.equal(result, reference)

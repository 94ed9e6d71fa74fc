"""Dropout and seeds: functions of their names, and of nothing else."""

import math

import pytest
import torch
from torch import Tensor

from reformer.ops.attention import Dropout
from reformer.ops.lsh_attention import lsh_attention
from reformer.ops.randomness import derive_seed, dropout, generator, pair_keep_mask
from tests.ops.definition import random_case
from tests.ops.test_attention import assert_close, call, gradients

MASK = 2**32 - 1


def mix(x: int) -> int:
    x ^= x >> 16
    x = x * 0x7FEB352D & MASK
    x ^= x >> 15
    x = x * 0x846CA68B & MASK
    return x ^ (x >> 16)


def pair_is_kept(seed: int, row: int, query: int, key: int, rate: float) -> bool:
    state = mix(row & MASK ^ seed & MASK)
    state = mix(state ^ seed >> 32 & MASK ^ query * 0x9E3779B1 & MASK)
    return mix(state ^ key * 0x85EBCA77 & MASK) >= int(rate * 2**32)


def whole_mask(seed: int, rows: int, length: int, rate: float) -> Tensor:
    positions = torch.arange(length)
    return pair_keep_mask(
        seed, torch.arange(rows)[:, None, None], positions[:, None], positions, rate
    )


def test_pairs_are_kept_by_the_published_hash() -> None:
    for seed in (0, 1, 2**31, 2**62 + 12345):
        for row, query, key in [(0, 0, 0), (3, 17, 4), (2**20, 2**31 - 1, 2**31), (7, 10**6, 9)]:
            for rate in (0.1, 0.5, 0.9):
                found = pair_keep_mask(
                    seed, torch.tensor(row), torch.tensor(query), torch.tensor(key), rate
                )
                assert bool(found) == pair_is_kept(seed, row, query, key, rate)


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.9])
def test_the_kept_share_of_pairs_is_one_less_rate_everywhere(rate: float) -> None:
    """Within five standard errors: as a whole, per row, per query and per key."""
    kept = whole_mask(3, rows=8, length=256, rate=rate).double()
    for axes in [(0, 1, 2), (1, 2), (0, 2), (0, 1)]:
        share = kept.mean(dim=axes)
        count = kept.numel() / share.numel()
        assert (share - (1 - rate)).abs().max() <= 5 * math.sqrt(rate * (1 - rate) / count)


def test_masks_of_seeds_rows_queries_and_keys_are_independent() -> None:
    masks = torch.stack([whole_mask(derive_seed(s), 6, 128, 0.5) for s in range(6)]).double()
    for axis in range(4):
        streams = masks.movedim(axis, 0).flatten(1)
        correlation = torch.corrcoef(streams) - torch.eye(streams.shape[0])
        assert correlation.abs().max() <= 5 / math.sqrt(streams.shape[1])


@pytest.mark.parametrize("rule", ["window", "chunk"])
def test_dropout_is_the_dense_softmax_with_pairs_removed(rule: str) -> None:
    for seed in range(20):
        case = random_case(seed, rule=rule)
        for tensor in (case.query, case.key, case.value):
            if tensor is not None:
                tensor.requires_grad_()
        rule_of_dropout = Dropout(rate=0.4, seed=seed)
        found, expected = (call(case, b, rule_of_dropout) for b in ("torch", "reference"))
        for result, wanted in zip(found, expected, strict=True):
            assert_close(result, wanted)
        for result, wanted in zip(
            gradients(case, *found, seed), gradients(case, *expected, seed), strict=True
        ):
            assert_close(result, wanted)


def test_dropout_drops_by_the_mask_and_scales_what_stays() -> None:
    """With one-hot values the output shows the attention weights themselves."""
    length, rate = 24, 0.4
    query = torch.randn(2, 3, length, length, generator=torch.Generator().manual_seed(0)).double()
    value = torch.eye(length, dtype=torch.float64).expand(2, 3, length, length)
    arguments = {"num_buckets": 2, "num_hashes": 2, "window_length": 6}
    weights = lsh_attention(query, value, **arguments)
    dropped = lsh_attention(query, value, **arguments, dropout=Dropout(rate, seed=9))
    kept = whole_mask(9, rows=6, length=length, rate=rate).view(2, 3, length, length)
    alone = (weights > 0).sum(dim=-1, keepdim=True).eq(1) & torch.eye(length, dtype=torch.bool)
    alone &= weights.diagonal(dim1=-2, dim2=-1)[..., None] > 0
    expected = torch.where(alone, weights, weights * kept / (1 - rate))
    assert_close(dropped, expected)


def test_dropout_replays_bit_for_bit_and_leaves_the_global_generator_alone() -> None:
    query = torch.randn(2, 3, 50, 8, generator=torch.Generator().manual_seed(0))
    before = torch.get_rng_state()
    first = lsh_attention(query, query, window_length=8, dropout=Dropout(0.3, seed=4))
    torch.rand(1)
    again = lsh_attention(query, query, window_length=8, dropout=Dropout(0.3, seed=4))
    other = lsh_attention(query, query, window_length=8, dropout=Dropout(0.3, seed=5))
    dropout(query[0], 0.5, shared=False, seed=3)
    torch.set_rng_state(before)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    expected = torch.rand(4)
    torch.set_rng_state(before)
    lsh_attention(query, query, window_length=8, dropout=Dropout(0.3, seed=4))
    dropout(query[0], 0.5, shared=True, seed=3)
    assert torch.equal(torch.rand(4), expected)


def test_on_average_dropout_changes_nothing() -> None:
    query = torch.randn(1, 1, 12, 4, generator=torch.Generator().manual_seed(0)).double()
    arguments = {"num_buckets": 1, "num_hashes": 1, "window_length": 12}
    plain = lsh_attention(query, query, **arguments)
    draws = torch.stack(
        [lsh_attention(query, query, **arguments, dropout=Dropout(0.3, s)) for s in range(600)]
    )
    error = draws.std(dim=0) / math.sqrt(600)
    assert ((draws.mean(dim=0) - plain).abs() <= 5 * error + 1e-9).all()


@pytest.mark.parametrize("shared", [True, False])
def test_output_dropout_keeps_its_share_and_may_share_its_mask(shared: bool) -> None:
    x = torch.ones(64, 30, 40, dtype=torch.float64)
    found = dropout(x, 0.25, shared=shared, seed=1)
    assert set(found.unique().tolist()) == {0.0, 1 / 0.75}
    columns = found[:, :1] if shared else found
    assert abs(float((columns > 0).double().mean()) - 0.75) <= 5 * math.sqrt(
        0.25 * 0.75 / columns.numel()
    )
    assert torch.equal(found, found[:, :1].expand_as(found)) == shared
    assert torch.equal(found, dropout(x, 0.25, shared=shared, seed=1))
    assert not torch.equal(found, dropout(x, 0.25, shared=shared, seed=2))
    assert not torch.equal(found[0], found[1])


def test_seeds_of_different_names_differ() -> None:
    names = [(a, b, c) for a in range(20) for b in range(20) for c in range(20)]
    names += [(a,) for a in range(-50, 50)] + [(a, b) for a in range(50) for b in range(50)]
    seeds = {derive_seed(*name) for name in names}
    assert len(seeds) == len(names)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_name_gives_the_same_numbers_for_ever() -> None:
    """Written-down values: a change here makes every saved run another run."""
    assert derive_seed(0) == 3980143261097177850
    assert derive_seed(1, 2, 3) == 2623250113353451629
    first = torch.rand(3, generator=generator(1, 2, 3))
    assert torch.equal(first, torch.rand(3, generator=generator(1, 2, 3)))
    assert not torch.equal(first, torch.rand(3, generator=generator(1, 3, 2)))

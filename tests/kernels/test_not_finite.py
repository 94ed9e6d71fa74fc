"""What is not finite reaches the queries that see it, and nothing else, bit for bit."""

import pytest
import torch
from torch import Tensor

from reformer.kernels import cpu
from reformer.ops.attention import Dropout, Visibility
from reformer.ops.dense import pair_counts
from reformer.ops.order import sort_tokens
from reformer.ops.tiled import attention_torch
from tests.ops.definition import Case, random_case

BAD = (torch.nan, torch.inf, -torch.inf)


def arguments(case: Case) -> tuple[object, ...]:
    order, code = sort_tokens(case.buckets, case.window, segment_ids=case.segments, backend="torch")
    visibility = Visibility(
        case.rule, case.window, case.causal, case.include_self, case.before, case.after
    )
    return order, code, case.segments, visibility, case.scale, Dropout()


def spoil(tensor: Tensor, chosen: Tensor, seed: int) -> Tensor:
    """One number of every chosen row [B, H, L] becomes NaN or infinite."""
    generator = torch.Generator().manual_seed(seed)
    spoilt = tensor.clone()
    for b, h, i in chosen.nonzero().tolist():
        k = int(torch.randint(0, tensor.shape[3], (1,), generator=generator))
        spoilt[b, h, i, k] = BAD[int(torch.randint(0, 3, (1,), generator=generator))]
    return spoilt


def test_values_of_the_next_token_reach_those_who_read_them(build: str) -> None:
    """The same results are not finite as in plain torch, and the others are unchanged."""
    reached = 0
    for seed in range(60):
        case = random_case(seed, rule="window")
        order, code, segments, *_ = arguments(case)
        rest = (order, code, segments, Visibility("window", case.window, gives_next=True))
        query, value = case.query.float(), case.value.float()
        chosen = torch.rand(query.shape[:3], generator=torch.Generator().manual_seed(seed)) < 0.05
        spoilt = spoil(value, chosen, seed)
        clean, _ = cpu.attention(query, None, value, *rest, case.scale, Dropout())
        found, _ = cpu.attention(query, None, spoilt, *rest, case.scale, Dropout())
        wanted, _ = attention_torch(query, None, spoilt, *rest, case.scale, Dropout())
        assert torch.equal(found.isfinite(), wanted.isfinite())
        untouched = wanted.isfinite().all(dim=-1)
        assert torch.equal(found[untouched], clean[untouched])
        reached += int((~untouched).sum())
    assert reached > 0


@pytest.mark.parametrize("rule", ["window", "chunk"])
def test_only_those_who_see_it_are_touched(build: str, rule: str) -> None:
    for seed in range(40):
        case = random_case(seed, rule=rule)
        clean = [None if t is None else t.float() for t in (case.query, case.key, case.value)]
        rest = arguments(case)
        shape = case.query.shape[:3]
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.rand(shape, generator=generator) < 0.05
        spoilt = [None if t is None else spoil(t, chosen, seed) for t in clean]
        counts, _ = pair_counts(*rest[:2], rest[3], case.segments, shape, chosen.device)
        sees_bad = ((counts > 0) & chosen[:, :, None]).any(dim=-1) | chosen

        wanted = cpu.attention(*clean, *rest)
        found = cpu.attention(*spoilt, *rest)
        reference = attention_torch(*spoilt, *rest)
        for result, before, other in zip(found, wanted, reference, strict=True):
            assert torch.equal(result[~sees_bad], before[~sees_bad])
            assert not (other.isfinite() & ~result.isfinite()).any(), "a NaN of its own"
        assert not found[0][chosen & (counts.sum(-1) == 1)].isfinite().all(-1).any()

        upstream = torch.randn(case.query.shape, generator=generator)
        upstream_lse = torch.randn(shape, generator=generator)
        touched = (counts > 0) & sees_bad[..., None]
        reached = touched.any(dim=2) | sees_bad
        grads = cpu.attention_backward(upstream, upstream_lse, *found, *spoilt, *rest)
        before = cpu.attention_backward(upstream, upstream_lse, *wanted, *clean, *rest)
        for result, clean_result in zip(grads, before, strict=True):
            if result is not None and clean_result is not None:
                assert torch.equal(result[~reached], clean_result[~reached])


@pytest.mark.parametrize("rule", ["window", "chunk"])
@pytest.mark.parametrize("size", [1e4, 1e-30, 0.0])
def test_large_and_vanishing_numbers_stay_finite(build: str, rule: str, size: float) -> None:
    for seed in range(20):
        case = random_case(seed, rule=rule)
        inputs = [
            None if t is None else t.float() * size for t in (case.query, case.key, case.value)
        ]
        out, lse = cpu.attention(*inputs, *arguments(case))
        grads = cpu.attention_backward(
            torch.ones_like(out), torch.ones_like(lse), out, lse, *inputs, *arguments(case)
        )
        assert all(t is None or t.isfinite().all() for t in (out, lse, *grads))


@pytest.mark.parametrize("gives_next", [False, True])
@pytest.mark.parametrize("shares_key", [False, True])
def test_a_query_alone_spoils_its_own_gradients(
    build: str, gives_next: bool, shares_key: bool
) -> None:
    """Nobody shares a bucket: what comes from above ends in the token's own rows."""
    generator = torch.Generator().manual_seed(0)
    query, key, value, above = (torch.randn(1, 1, 5, 16, generator=generator) for _ in range(4))
    buckets = torch.arange(5, dtype=torch.uint8).expand(1, 1, 2, 5).contiguous()
    order, code = cpu.sort_tokens(buckets, None, 3)
    rest = (order, code, None, Visibility("window", 3, gives_next=gives_next), 1.0, Dropout())
    inputs = (query, None if shares_key else key, value)
    out, lse = cpu.attention(*inputs, *rest)
    spoilt = above.clone()
    spoilt[0, 0, 2, 7] = torch.nan
    clean = cpu.attention_backward(above, torch.ones_like(lse), out, lse, *inputs, *rest)
    found = cpu.attention_backward(spoilt, torch.ones_like(lse), out, lse, *inputs, *rest)
    others = torch.tensor([0, 1, 3, 4])
    for before, after in zip(clean, found, strict=True):
        if before is not None and after is not None:
            assert after[0, 0, 2].isnan().all()
            assert torch.equal(before[:, :, others], after[:, :, others])


def test_a_masked_sequence_is_itself(build: str) -> None:
    """Every token is padding: nobody sees anybody, so values pass through."""
    generator = torch.Generator().manual_seed(0)
    query, value = (torch.randn(1, 1, 50, 16, generator=generator) for _ in range(2))
    segments = torch.full((1, 50), -1)
    for rule in ("window", "chunk"):
        order, code = cpu.sort_tokens(torch.zeros(1, 1, 2, 50, dtype=torch.uint8), segments, 8)
        out, _ = cpu.attention(
            query, None, value, order, code, segments, Visibility(rule, 8), 1.0, Dropout()
        )
        assert torch.equal(out, value)

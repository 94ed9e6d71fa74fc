"""Which tokens reach which queries: later tokens never, bad values only where they are seen."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from reformer.ops.attention import Visibility, attend
from reformer.ops.lsh_attention import hash_buckets, local_attention, lsh_attention
from reformer.ops.order import sort_tokens
from tests.ops.definition import random_case

LENGTH, WINDOW = 70, 6


def some_tensors(seed: int, count: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(2, 2, LENGTH, 8, generator=generator, dtype=torch.float64).to(dtype)
        for _ in range(count)
    ]


def attended(query_key: Tensor, window: int = WINDOW) -> Tensor:
    """bool [B, H, L, L], found by sending one-hot values through the op itself."""
    batch, heads, length, _ = query_key.shape
    buckets = hash_buckets(query_key, num_buckets=8, seed=1)
    order, code = sort_tokens(buckets, window)
    wide = torch.nn.functional.pad(query_key, (0, length - query_key.shape[-1]))
    one_hot = torch.eye(length, dtype=query_key.dtype).expand(batch, heads, length, length)
    out, _ = attend(wide, None, one_hot, order, code, Visibility("window", window), backend="torch")
    return out > 0


@pytest.mark.parametrize("seed", range(10))
def test_later_tokens_never_change_what_an_earlier_query_attends_to(seed: int) -> None:
    query_key, value, other_query_key, other_value = some_tensors(seed, 4)
    cut = 1 + 7 * seed
    changed = torch.arange(LENGTH) >= cut
    changed_query_key = torch.where(changed[:, None], other_query_key, query_key)
    changed_value = torch.where(changed[:, None], 1e3 * other_value, value)
    before, after = attended(query_key), attended(changed_query_key)
    assert torch.equal(before[:, :, :cut], after[:, :, :cut])
    assert not torch.equal(before[:, :, cut:], after[:, :, cut:])
    out = lsh_attention(query_key, value, window_length=WINDOW, num_buckets=8)
    again = lsh_attention(changed_query_key, changed_value, window_length=WINDOW, num_buckets=8)
    assert (out - again)[:, :, :cut].abs().max() <= 1e-12
    assert (out - again)[:, :, cut:].abs().max() > 1e-3


@pytest.mark.parametrize("seed", range(10))
def test_a_prefix_attends_as_the_whole_does(seed: int) -> None:
    """The sets do not depend on how long the sequence is, as cached decoding needs."""
    (query_key,) = some_tensors(seed, 1)
    whole = attended(query_key)
    for cut in (1, 16, 17, 50):
        assert torch.equal(attended(query_key[:, :, :cut]), whole[:, :, :cut, :cut])


def test_attended_sets_hold_earlier_tokens_only_and_at_most_r_times_w_less_1() -> None:
    (query_key,) = some_tensors(0, 1)
    seen = attended(query_key)
    alone = torch.eye(LENGTH, dtype=torch.bool)
    sees_itself = seen.diagonal(dim1=-2, dim2=-1)
    assert not (seen & ~alone).triu().any()
    assert int(seen.sum(dim=-1).max()) <= 4 * (WINDOW - 1)
    assert torch.equal(sees_itself, (seen & ~alone).sum(dim=-1) == 0)
    assert sees_itself[:, :, 0].all()


class Spoilt(NamedTuple):
    """A fuzzed call, clean and with one bad token; upstream gradients miss what it reaches."""

    sees: Tensor  # bool [B, H, L]: queries that see the token
    alone: Tensor  # bool [B, H, L]: queries that see nobody and so themselves
    token: int
    linked: Tensor  # bool [B, H, L]: tokens that share a query with it
    clean: list[Tensor]  # output and gradients
    spoilt: list[Tensor]


def spoilt_call(seed: int, rule: str, bad: float, where: str) -> Spoilt:
    case = random_case(seed, rule=rule)
    if where == "key" and case.key is None:
        where = "query"
    order, code = sort_tokens(case.buckets, case.window, segment_ids=case.segments)
    visibility = Visibility(
        case.rule, case.window, case.causal, case.include_self, case.before, case.after
    )
    _, counts, alone = case.counts()
    token = seed % case.query.shape[2]
    sees = counts[..., token] > 0
    reached = sees.clone()
    reached[..., token] = True
    linked = (counts * reached[..., None]).sum(dim=-2) > 0
    upstream = torch.where(reached[..., None], 0.0, torch.ones_like(case.query))
    results = []
    for spoil in (False, True):
        inputs = {"query": case.query, "key": case.key, "value": case.value}
        leaves = {n: t.clone() for n, t in inputs.items() if t is not None}
        if spoil:
            leaves[where][:, :, token] = bad
        for leaf in leaves.values():
            leaf.requires_grad_()
        out, _ = attend(
            leaves["query"], leaves.get("key"), leaves["value"], order, code, visibility,
            segment_ids=case.segments, scale=case.scale, backend="torch",
        )  # fmt: skip
        grads = torch.autograd.grad(out, list(leaves.values()), upstream)
        results.append([out.detach(), *grads])
    return Spoilt(sees, alone, token, linked | reached, *results)


@pytest.mark.parametrize("rule", ["window", "chunk"])
@pytest.mark.parametrize("where", ["query", "key", "value"])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_bad_token_reaches_only_the_queries_that_see_it(
    rule: str, where: str, bad: float
) -> None:
    for seed in range(20):
        call = spoilt_call(seed, rule, bad, where)
        reached = call.sees.clone()
        reached[..., call.token] = True
        assert torch.equal(call.clean[0][~reached], call.spoilt[0][~reached])
        for wanted, found in zip(call.clean[1:], call.spoilt[1:], strict=True):
            assert torch.equal(wanted[~call.linked], found[~call.linked])


@pytest.mark.parametrize("rule", ["window", "chunk"])
@pytest.mark.parametrize("where", ["query", "key", "value"])
def test_a_nan_is_never_hidden_from_a_query_that_sees_it(rule: str, where: str) -> None:
    for seed in range(20):
        call = spoilt_call(seed, rule, torch.nan, where)
        out, grad_query = call.spoilt[:2]
        sees = call.sees
        if where == "query":
            sees = torch.zeros_like(sees)
            sees[..., call.token] = True
        # Alone, a query takes its own value whatever its score is.
        sees = sees & ~call.alone
        assert out[sees].isnan().all()
        assert grad_query[sees].isnan().all()


@pytest.mark.parametrize("bad", [torch.inf, -torch.inf])
def test_an_infinite_value_makes_an_infinite_output(bad: float) -> None:
    for seed in range(20):
        call = spoilt_call(seed, "window", bad, "value")
        assert (call.spoilt[0][call.sees] == bad).all()


@pytest.mark.parametrize("kind", ["lsh", "local"])
@pytest.mark.parametrize("rule", ["window", "chunk"])
def test_a_bad_sequence_or_document_never_touches_another(kind: str, rule: str) -> None:
    query, key, value, upstream = some_tensors(0, 4, torch.float32)
    segments = torch.tensor([[0] * 40 + [1] * (LENGTH - 40), [0] * LENGTH])
    neighbour = torch.zeros(2, 1, LENGTH, 1, dtype=torch.bool)
    neighbour[0, :, :40] = neighbour[1] = True
    buckets = hash_buckets(query, num_buckets=8)
    results = []
    for spoil in (False, True):
        leaves = [
            torch.where(neighbour & spoil, torch.nan, t).requires_grad_()
            for t in (query, key, value)
        ]
        if kind == "local":
            out = local_attention(*leaves, window_length=WINDOW, rule=rule, segment_ids=segments)
        else:
            out = lsh_attention(
                leaves[0], leaves[2], window_length=WINDOW, rule=rule,
                segment_ids=segments, buckets=buckets,
            )  # fmt: skip
        used = [leaves[0], leaves[2]] if kind == "lsh" else leaves
        grads = torch.autograd.grad(out, used, upstream)
        results.append([t.detach()[0, :, 40:] for t in (out, *grads)])
    for wanted, found in zip(*results, strict=True):
        assert (wanted - found).abs().max() <= 2e-6, "a NaN would fail this too"


@pytest.mark.parametrize("rule", ["window", "chunk"])
@pytest.mark.parametrize("kind", ["lsh", "local"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_inputs_stay_finite(kind: str, rule: str, dtype: torch.dtype) -> None:
    tensors = [(1e4 * t).requires_grad_() for t in some_tensors(0, 3, dtype)]
    if kind == "local":
        out = local_attention(*tensors, window_length=WINDOW, rule=rule)
    else:
        out = lsh_attention(tensors[0], tensors[2], window_length=WINDOW, rule=rule)
    out.square().mean().backward()
    assert torch.isfinite(out).all()
    for tensor in tensors:
        assert tensor.grad is None or torch.isfinite(tensor.grad).all()


@pytest.mark.parametrize("rule", ["window", "chunk"])
def test_a_query_that_sees_nobody_takes_its_own_value(rule: str) -> None:
    query_key, value = (t.requires_grad_() for t in some_tensors(0, 2))
    segments = torch.full((2, LENGTH), -1)
    out = lsh_attention(query_key, value, rule=rule, window_length=WINDOW, segment_ids=segments)
    assert torch.equal(out, value)
    grad_query_key, grad_value = torch.autograd.grad(out, [query_key, value], torch.ones_like(out))
    assert torch.equal(grad_value, torch.ones_like(out))
    assert grad_query_key.abs().max() <= 1e-15


def test_all_zero_and_all_equal_inputs_give_finite_gradients() -> None:
    for fill in (0.0, 1.0):
        query_key = torch.full((1, 1, 20, 4), fill, requires_grad=True)
        out = lsh_attention(query_key, query_key, window_length=4)
        out.sum().backward()
        assert torch.isfinite(out).all()
        assert query_key.grad is not None and torch.isfinite(query_key.grad).all()

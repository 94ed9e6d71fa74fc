"""The kernels against float64: never more than twice the error of plain torch in their dtype."""

import random

import pytest
import torch
from torch import Tensor

from reformer.kernels import cpu
from reformer.ops.attention import Dropout, Visibility
from reformer.ops.order import sort_tokens
from reformer.ops.tiled import attention_torch
from reformer.ops.tiled_backward import attention_backward_torch
from tests.ops.definition import Case, random_case

NAMES = ("out", "lse", "grad_query", "grad_key", "grad_value")


def tensors(case: Case, dtype: torch.dtype) -> list[Tensor | None]:
    """query, key, value in a dtype, with the strides of the case."""
    return [None if t is None else t.to(dtype) for t in (case.query, case.key, case.value)]


def settings(case: Case, seed: int) -> tuple[object, ...]:
    order, code = sort_tokens(case.buckets, case.window, segment_ids=case.segments, backend="torch")
    if seed % 5 == 2:
        order, code = order.long(), code.long()
    gives_next = case.rule == "window" and case.causal and not case.include_self and seed % 2 == 0
    visibility = Visibility(
        case.rule, case.window, case.causal, case.include_self, case.before, case.after, gives_next
    )
    dropout = Dropout(0.3, seed * 0x1234567) if seed % 4 == 1 else Dropout()
    placed = (None, None) if seed % 7 == 3 and not gives_next else (order, code)
    return (*placed, case.segments, visibility, case.scale, dropout)


def both_passes(
    implementation: str, inputs: list[Tensor | None], rest: tuple[object, ...], seed: int
) -> list[Tensor | None]:
    native = implementation == "cpu"
    forward = cpu.attention if native else attention_torch
    backward = cpu.attention_backward if native else attention_backward_torch
    query = inputs[0]
    assert query is not None
    out, lse = forward(*inputs, *rest)
    generator = torch.Generator().manual_seed(seed)
    upstream = torch.randn(query.shape, generator=generator).to(query.dtype)
    upstream_lse = torch.randn(query.shape[:3], generator=generator).to(lse.dtype)
    return [out, lse, *backward(upstream, upstream_lse, out, lse, *inputs, *rest)]


def assert_twice_as_good(case: Case, dtype: torch.dtype, seed: int) -> None:
    inputs, rest = tensors(case, dtype), settings(case, seed)
    wide = [None if t is None else t.double() for t in inputs]
    wanted = both_passes("torch", wide, rest, seed)
    plain = both_passes("torch", inputs, rest, seed)
    found = both_passes("cpu", inputs, rest, seed)
    for name, exact, reference, result in zip(NAMES, wanted, plain, found, strict=True):
        if exact is None or reference is None or result is None:
            assert exact is result is None
            continue
        assert result.shape == reference.shape and result.dtype == reference.dtype
        assert result.stride() == reference.stride()
        allowed = 2 * float((reference.double() - exact).norm())
        # In small cases the reference can be exact by luck: one unit in the last place is free.
        # A gradient can be small by cancellation of terms as large as the other gradients.
        scale = max(float(t.norm()) for t in wanted if t is not None)
        floor = torch.finfo(result.dtype).eps * scale
        error = float((result.double() - exact).norm())
        assert error <= allowed + floor, f"{name}: {error} > {allowed} + {floor} for {rest[3]}"


@pytest.mark.parametrize("rule", ["window", "chunk"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_is_as_precise_as_plain_torch(build: str, rule: str, dtype: torch.dtype) -> None:
    for seed in range(40):
        assert_twice_as_good(random_case(seed, rule=rule), dtype, seed)


def wide_case(seed: int, rule: str, longest: int) -> Case:
    """Longer than a block of keys, wider than a vector, few buckets and many."""
    chance, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    length, width = chance.randint(100, longest), chance.choice([16, 20, 40, 64, 80, 128, 256])
    heads, rounds = chance.randint(1, 2), chance.randint(1, 8)

    def tensor() -> Tensor:
        return torch.randn(1, length, heads, width, generator=generator).transpose(1, 2).double()

    num_buckets = chance.choice([1, 2, 8, 64, length])
    return Case(
        query=tensor(), key=chance.choice([None, tensor()]), value=tensor(),
        buckets=torch.randint(0, num_buckets, (1, heads, rounds, length), generator=generator),
        segments=None, rule=rule, window=chance.choice([16, 64, 100, 257, length]),
        causal=chance.random() < 0.6, include_self=chance.random() < 0.5,
        before=1, after=chance.randint(0, 1), scale=chance.choice([1.0, width**-0.5]),
    )  # fmt: skip


@pytest.mark.parametrize("rule", ["window", "chunk"])
def test_long_and_wide_attention_is_as_precise_as_plain_torch(build: str, rule: str) -> None:
    for seed in range(6):
        assert_twice_as_good(wide_case(seed, rule, 600), torch.float32, seed)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["window", "chunk"])
def test_attention_is_as_precise_as_plain_torch_in_many_more_cases(build: str, rule: str) -> None:
    for seed in range(1000, 1400):
        dtype = torch.bfloat16 if seed % 4 == 0 else torch.float32
        assert_twice_as_good(random_case(seed, rule=rule, longest=300), dtype, seed)
    for seed in range(2000, 2060):
        assert_twice_as_good(wide_case(seed, rule, 3000), torch.float32, seed)


@pytest.mark.parametrize("before", [1, 3, 7])
def test_the_same_pairs_in_every_chunk_and_round_are_not_rounded_in_each(
    build: str, before: int
) -> None:
    """A token alone sees itself over and over: its output is its value, but for roundings."""
    generator = torch.Generator().manual_seed(before)
    query, value = (torch.randn(1, 64, 1, 32, generator=generator) for _ in range(2))
    order = torch.zeros(1, 64, 8, 1, dtype=torch.int32)
    itself = Visibility("chunk", 16, causal=True, include_self=True, before=before, after=0)
    rest = (order, order, None, itself, 1.0, Dropout())
    found, plain = (f(query, None, value, *rest)[0] for f in (cpu.attention, attention_torch))
    assert float((found - value).norm()) <= 2 * float((plain - value).norm())


@pytest.mark.parametrize("width", [8, 20, 64])
def test_a_query_that_sees_one_key_has_no_gradient_through_it(build: str, width: int) -> None:
    """Its softmax is 1 whatever the score: do . v and do . o must cancel to the last bit."""
    generator = torch.Generator().manual_seed(width)
    query, key, value, upstream = (
        torch.randn(1, 2, 50, width, generator=generator) for _ in range(4)
    )
    itself = Visibility("window", 1, causal=True, include_self=True, before=0, after=0)
    rest = (None, None, None, itself, 1.0, Dropout())
    out, lse = cpu.attention(query, key, value, *rest)
    grad_query, grad_key, grad_value = cpu.attention_backward(
        upstream, torch.zeros_like(lse), out, lse, query, key, value, *rest
    )
    assert torch.equal(out, value) and torch.equal(grad_value, upstream)
    assert not grad_query.any() and grad_key is not None and not grad_key.any()


def test_codes_beyond_32_bits_are_told_apart(build: str) -> None:
    """int64 codes whose low 32 bits are all close: no two tokens share a run."""
    generator = torch.Generator().manual_seed(0)
    length, rounds = 40, 2
    query, value = (torch.randn(1, 1, length, 16, generator=generator) for _ in range(2))
    order = torch.arange(length).expand(1, 1, rounds, length).contiguous()
    code = order * (2**32 + 1)
    code[:, :, 1, 10:] += 5
    args = (order, code, None, Visibility("window", 50), 1.0, Dropout())
    for found, wanted in zip(
        cpu.attention(query, None, value, *args),
        attention_torch(query, None, value, *args),
        strict=True,
    ):
        torch.testing.assert_close(found, wanted)
    assert torch.equal(cpu.attention(query, None, value, *args)[0], value)

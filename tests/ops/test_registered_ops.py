"""The registered operators: numerical gradients, torch's own checks, and compilation."""

import itertools
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from reformer.ops.attention import Dropout, Visibility, attend
from reformer.ops.hashing import draw_rotations
from reformer.ops.lsh_attention import hash_buckets, local_attention, lsh_attention
from reformer.ops.order import sort_tokens
from tests.ops.definition import Case, random_case


def visibility_of(case: Case) -> Visibility:
    gives_next = case.rule == "window" and case.causal and not case.include_self
    return Visibility(
        case.rule, case.window, case.causal, case.include_self, case.before, case.after, gives_next
    )


def settings(case: Case, rate: float = 0.0) -> tuple[object, ...]:
    return (*visibility_of(case), case.scale, rate, 5, "torch")


def frozen(case: Case, rate: float = 0.0) -> tuple[Callable[..., object], list[Tensor]]:
    """The attention of a case as a function of its tensors alone, and those tensors."""
    order, code = sort_tokens(case.buckets, case.window, segment_ids=case.segments)
    visibility = visibility_of(case)

    def attention(*inputs: Tensor) -> tuple[Tensor, Tensor]:
        query, *key, value = inputs
        return attend(
            query, key[0] if key else None, value, order, code, visibility,
            segment_ids=case.segments, scale=case.scale,
            dropout=Dropout(rate, seed=5), backend="torch",
        )  # fmt: skip

    inputs = [t for t in (case.query, case.key, case.value) if t is not None]
    return attention, [t.detach().requires_grad_() for t in inputs]


@pytest.mark.parametrize("rule", ["window", "chunk"])
@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_gradients_are_the_numerical_ones(rule: str, rate: float) -> None:
    """Order and buckets frozen; through the output and through lse, along random directions."""
    for seed in range(12):
        attention, inputs = frozen(random_case(seed, rule=rule, longest=24), rate)
        assert torch.autograd.gradcheck(attention, inputs, atol=1e-7, rtol=1e-5, fast_mode=True)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["window", "chunk"])
def test_gradients_are_the_numerical_ones_entry_by_entry(rule: str) -> None:
    for seed in range(12):
        attention, inputs = frozen(random_case(seed, rule=rule, longest=8))
        assert torch.autograd.gradcheck(attention, inputs, atol=1e-7, rtol=1e-5)


def attention_samples() -> Iterator[tuple[object, ...]]:
    """Arguments of the attention op: strided, shared or separate keys, empty batch, dtypes."""
    for seed, rule in itertools.product(range(5), ("window", "chunk")):
        case = random_case(seed, rule=rule, longest=20)
        order, code = sort_tokens(case.buckets, case.window, segment_ids=case.segments)
        segments = case.segments
        tensors = [case.query, case.key, case.value]
        if seed == 3:
            tensors = [t if t is None else t.float() for t in tensors]
        if seed == 4:
            tensors = [t if t is None else t[:0] for t in tensors]
            order, code = order[:0], code[:0]
            segments = segments if segments is None else segments[:0]
        if seed != 2:
            tensors = [t if t is None else t.detach().requires_grad_() for t in tensors]
        yield (*tensors, order, code, segments, *settings(case, 0.2 * (seed == 1)))
    query = torch.randn(1, 2, 9, 4).transpose(1, 2).requires_grad_()
    yield (
        query,
        query,
        query,
        None,
        None,
        None,
        "window",
        3,
        True,
        True,
        1,
        0,
        False,
        0.5,
        0.0,
        0,
        "torch",
    )


def backward_samples() -> Iterator[tuple[object, ...]]:
    for arguments in attention_samples():
        detached = [a.detach() if isinstance(a, Tensor) else a for a in arguments]
        out, lse = torch.ops.reformer.attention(*detached)
        yield (torch.ones_like(out), torch.ones_like(lse), out, lse, *detached)


def hashing_samples() -> Iterator[tuple[object, ...]]:
    for factors, batch, dtype, width in itertools.product(
        ([8], [4, 6]), (2, 0), (torch.float32, torch.float64, torch.bfloat16), (4, 16)
    ):
        vectors = torch.randn(batch, 7, 3, width).to(dtype).transpose(1, 2)
        yield (vectors, *draw_rotations(3, width, 2, tuple(factors), seed=0), factors, "torch")


def sorting_samples() -> Iterator[tuple[object, ...]]:
    for seed in range(8):
        case = random_case(seed, rule="window", longest=20)
        narrow = case.buckets.to(torch.uint8)
        yield (narrow if seed % 2 else narrow[..., ::2], None, case.window, "torch")
        yield (narrow, case.segments, case.window, "torch")
    yield (torch.zeros(0, 2, 3, 5, dtype=torch.uint8), None, 4, "torch")


SAMPLES: dict[str, Callable[[], Iterator[tuple[object, ...]]]] = {
    "attention": attention_samples,
    "attention_backward": backward_samples,
    "draw_rotations": lambda: iter([([3, 4, 2, 8], 5), ([3, 0, 2, 8], 2**62)]),
    "hash_vectors": hashing_samples,
    "orthonormal": lambda: (
        (torch.randn(shape, generator=torch.Generator().manual_seed(0)),)
        for shape in ((2, 8, 3, 5), (1, 4, 2, 9), (0, 4, 1, 2))
    ),
    "sort_tokens": sorting_samples,
}


def registered_ops() -> list[str]:
    names = torch._C._dispatch_get_all_op_names()
    return sorted({n.split("::")[1].split(".")[0] for n in names if n.startswith("reformer::")})


def test_every_registered_op_has_samples() -> None:
    assert set(registered_ops()) == set(SAMPLES)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*")
@pytest.mark.parametrize("name", SAMPLES)
def test_ops_keep_the_rules_of_torch(name: str) -> None:
    op = getattr(torch.ops.reformer, name).default
    for arguments in SAMPLES[name]():
        torch.library.opcheck(op, arguments)


@pytest.mark.parametrize("rule", ["window", "chunk"])
def test_whole_graphs_compile_and_agree(rule: str) -> None:
    """Both public functions, hashing included, without a graph break."""
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(1, 2, 40, 8, generator=generator).requires_grad_() for _ in range(3)]

    def both(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        hashed = lsh_attention(query, value, window_length=8, rule=rule)
        return hashed + local_attention(query, key, value, window_length=8, rule=rule)

    compiled = torch.compile(both, fullgraph=True, backend="aot_eager")
    expected, found = both(*tensors), compiled(*tensors)
    assert torch.equal(expected, found)
    for wanted, result in zip(
        torch.autograd.grad(expected.square().sum(), tensors),
        torch.autograd.grad(found.square().sum(), tensors),
        strict=True,
    ):
        assert torch.equal(wanted, result)


def test_buckets_can_be_handed_in_and_change_nothing() -> None:
    query = torch.randn(2, 2, 30, 8, generator=torch.Generator().manual_seed(0))
    buckets = hash_buckets(query, num_hashes=3, window_length=5, num_buckets=4, seed=9)
    wanted = lsh_attention(query, query, num_hashes=3, window_length=5, num_buckets=4, seed=9)
    assert torch.equal(lsh_attention(query, query, window_length=5, buckets=buckets), wanted)

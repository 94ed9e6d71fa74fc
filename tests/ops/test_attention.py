"""The attention op against two definitions: the package's dense one, and loops over sets."""

import pytest
import torch
from torch import Tensor

from reformer.ops.attention import Dropout, Visibility, attend
from reformer.ops.dense import pair_counts
from reformer.ops.lsh_attention import hash_buckets, local_attention, lsh_attention
from reformer.ops.order import sort_tokens
from tests.ops.definition import Case, random_case

EXACT = 1e-10


def assert_close(found: Tensor, expected: Tensor, tolerance: float = EXACT) -> None:
    """Relative to the largest entry; what is zero by definition may be rounding."""
    assert found.shape == expected.shape
    assert torch.isfinite(found).all()
    if found.numel() == 0:
        return
    found, expected = found.detach(), expected.detach()
    error, largest = (found - expected).abs().max(), expected.abs().max()
    assert float(error) <= tolerance * float(largest) + 1e-13


def call(case: Case, backend: str, dropout: Dropout = Dropout()) -> tuple[Tensor, Tensor]:
    order, code = sort_tokens(case.buckets, case.window, segment_ids=case.segments, backend="torch")
    visibility = Visibility(
        case.rule, case.window, case.causal, case.include_self, case.before, case.after
    )
    return attend(
        case.query, case.key, case.value, order, code, visibility,
        segment_ids=case.segments, scale=case.scale, dropout=dropout, backend=backend,
    )  # fmt: skip


def gradients(case: Case, out: Tensor, lse: Tensor, seed: int) -> list[Tensor]:
    """Gradients of the inputs for random gradients of both outputs."""
    inputs = [t for t in (case.query, case.key, case.value) if t is not None]
    generator = torch.Generator().manual_seed(seed)
    upstream = [torch.randn(t.shape, generator=generator, dtype=t.dtype) for t in (out, lse)]
    return list(torch.autograd.grad([out, lse], inputs, upstream))


def check_case(seed: int, rule: str) -> None:
    case = random_case(seed, rule=rule)
    for tensor in (case.query, case.key, case.value):
        if tensor is not None:
            tensor.requires_grad_()
    expected = case.attend()
    expected_gradients = gradients(case, *expected, seed)
    for backend in ("torch", "reference"):
        found = call(case, backend)
        for result, wanted in zip(found, expected, strict=True):
            assert_close(result, wanted)
        for result, wanted in zip(gradients(case, *found, seed), expected_gradients, strict=True):
            assert_close(result, wanted)


@pytest.mark.parametrize("rule", ["window", "chunk"])
@pytest.mark.parametrize("seed", range(30))
def test_the_op_is_one_softmax_over_the_sets_of_the_rule(seed: int, rule: str) -> None:
    check_case(seed, rule)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["window", "chunk"])
def test_the_op_is_one_softmax_over_the_sets_of_the_rule_in_many_more_cases(rule: str) -> None:
    for seed in range(1000, 2000):
        check_case(seed, rule)


@pytest.mark.parametrize("seed", range(30))
def test_rounds_joined_by_logsumexp_with_log_n_are_the_union(seed: int) -> None:
    case = random_case(seed, rule="window")
    for result, wanted in zip(case.attend_by_rounds(), call(case, "torch"), strict=True):
        assert_close(result, wanted)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("length", [1, 2, 16, 17, 33, 100])
def test_one_bucket_one_round_and_a_long_window_is_exact_attention(
    length: int, causal: bool
) -> None:
    generator = torch.Generator().manual_seed(length)
    shape = (2, 3, length, 8)
    query, value = (
        torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        for _ in range(2)
    )
    key = query / (query.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt() / 8**0.5
    # Everyone sees all the others; the first token of a causal sequence sees itself.
    hidden = torch.eye(length, dtype=torch.bool)
    if causal:
        hidden |= torch.ones(length, length, dtype=torch.bool).triu()
    hidden[0, 0] = length > 1 and not causal
    exact = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=~hidden, scale=1.0
    )
    found = lsh_attention(
        query, value, num_hashes=1, num_buckets=1, window_length=length + 1, causal=causal
    )
    assert_close(found, exact)
    upstream = torch.randn(shape, generator=generator, dtype=torch.float64)
    for result, wanted in zip(
        torch.autograd.grad(found, [query, value], upstream),
        torch.autograd.grad(exact, [query, value], upstream),
        strict=True,
    ):
        assert_close(result, wanted)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    ("length", "window"), [(1, 1), (7, 3), (64, 16), (65, 17), (100, 1), (90, 200)]
)
def test_local_attention_is_attention_with_a_banded_mask(
    length: int, window: int, causal: bool
) -> None:
    generator = torch.Generator().manual_seed(length)
    query, key, value, upstream = (
        torch.randn(2, 2, length, 8, generator=generator, dtype=torch.float64) for _ in range(4)
    )
    inputs = [t.requires_grad_() for t in (query, key, value)]
    positions = torch.arange(length)
    distance = positions[:, None] - positions[None, :]
    band = (distance.abs() < window) & ((distance >= 0) | (not causal))
    exact = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=band)
    found = local_attention(query, key, value, window_length=window, causal=causal)
    assert_close(found, exact)
    for result, wanted in zip(
        torch.autograd.grad(found, inputs, upstream),
        torch.autograd.grad(exact, inputs, upstream),
        strict=True,
    ):
        assert_close(result, wanted)


@pytest.mark.parametrize("rule", ["window", "chunk"])
@pytest.mark.parametrize("kind", ["lsh", "local"])
def test_packed_documents_are_what_each_document_gives_alone(kind: str, rule: str) -> None:
    """Window rule: to rounding. Chunk rule: no value of another document ever arrives."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(1, 2, 50, 8, generator=generator, dtype=torch.float64) for _ in range(3)
    )
    segments = torch.tensor([[0] * 20 + [1] * 22 + [-1] * 8])

    def attention(part: slice, segment_ids: Tensor | None, values: Tensor) -> Tensor:
        q, k, v = query[:, :, part], key[:, :, part], values[:, :, part]
        if kind == "local":
            return local_attention(q, k, v, window_length=5, rule=rule, segment_ids=segment_ids)
        return lsh_attention(
            q, v, window_length=5, num_buckets=4, rule=rule, segment_ids=segment_ids
        )

    packed = attention(slice(None), segments, value)
    for document in (slice(0, 20), slice(20, 42)):
        spoilt = torch.full_like(value, torch.nan)
        spoilt[:, :, document] = value[:, :, document]
        found = attention(slice(None), segments, spoilt)[:, :, document]
        assert_close(found, packed[:, :, document])
        if rule == "window":
            assert_close(packed[:, :, document], attention(document, None, value))


@pytest.mark.parametrize("causal", [True, False])
def test_half_precision_accumulates_in_float32(causal: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    query, value = (torch.randn(1, 2, 300, 16, generator=generator) for _ in range(2))
    buckets = hash_buckets(query, window_length=32)
    narrow = [t.bfloat16() for t in (query, value)]
    found = lsh_attention(
        *narrow, buckets=buckets, window_length=32, causal=causal, backend="torch"
    )
    wide = lsh_attention(
        *(t.float() for t in narrow),
        buckets=buckets,
        window_length=32,
        causal=causal,
        backend="torch",
    )
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, wide.bfloat16())


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_does_not_narrow_the_accumulation(dtype: torch.dtype, backend: str) -> None:
    generator = torch.Generator().manual_seed(0)
    query, value, upstream = (
        torch.randn(1, 2, 60, 16, generator=generator).to(dtype).requires_grad_() for _ in range(3)
    )
    results = []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            out = lsh_attention(query, value, window_length=8, backend=backend)
            grads = torch.autograd.grad(out, [query, value], upstream) if backend == "torch" else []
        results.append([out, *grads])
    for plain, cast in zip(*results, strict=True):
        assert plain.dtype == cast.dtype == dtype
        assert torch.equal(plain, cast)


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("rule", ["window", "chunk"])
def test_nothing_to_attend_to_is_a_valid_call(rule: str, backend: str) -> None:
    for shape in [(0, 2, 5, 4), (2, 2, 0, 4)]:
        query = torch.zeros(shape, requires_grad=True)
        out = lsh_attention(query, query, rule=rule, window_length=2, backend=backend)
        assert out.shape == shape
        out.sum().backward()
        assert query.grad is not None and query.grad.shape == shape


@pytest.mark.parametrize("causal", [True, False])
def test_the_window_rule_shows_the_sets_that_its_definition_lists(causal: bool) -> None:
    """The [L, L] mask of the package's own definition, entry by entry."""
    for seed in range(20):
        case = random_case(seed, rule="window", longest=30)
        order, code = sort_tokens(case.buckets, case.window, segment_ids=case.segments)
        visibility = Visibility("window", case.window, case.causal, case.include_self)
        batch, heads, _, length = case.buckets.shape
        found, alone = pair_counts(
            order, code, visibility, None, (batch, heads, length), torch.device("cpu")
        )
        _, expected, expected_alone = case.counts()
        assert torch.equal(found, expected)
        assert torch.equal(alone[..., 0], expected_alone)


@pytest.mark.parametrize("rule", ["other", "", None])
def test_an_unknown_rule_is_refused_by_name(rule: str) -> None:
    query = torch.zeros(1, 1, 4, 4)
    with pytest.raises(ValueError, match="rule is .*: use 'window' or 'chunk'"):
        lsh_attention(query, query, rule=rule)
    with pytest.raises(ValueError, match="rule is .*: use 'window' or 'chunk'"):
        local_attention(query, query, query, window_length=2, rule=rule)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("window_length", 0),
        ("window_length", -1),
        ("window_length", 2.5),
        ("window_length", 2**62),
        ("num_hashes", 0),
        ("num_hashes", "4"),
        ("chunks_before", -1),
        ("chunks_after", -1),
        ("dropout", Dropout(1.0)),
        ("dropout", Dropout(-0.1)),
        ("dropout", Dropout(float("nan"))),
    ],
)
def test_numbers_that_mean_nothing_are_refused_by_name(name: str, value: object) -> None:
    query = torch.zeros(1, 1, 4, 4)
    with pytest.raises(ValueError, match=f"{name}.* is"):
        lsh_attention(query, query, **{name: value})
    if name != "num_hashes":
        with pytest.raises(ValueError, match=f"{name}.* is"):
            local_attention(query, query, query, **({"window_length": 2} | {name: value}))


def test_tensors_that_do_not_fit_each_other_are_refused_by_name() -> None:
    query = torch.zeros(1, 2, 6, 4)
    with pytest.raises(ValueError, match="query_key must be a float tensor"):
        lsh_attention(query.long(), query)
    with pytest.raises(ValueError, match="query_key must be a float tensor"):
        lsh_attention(query[0], query)
    with pytest.raises(ValueError, match="value must match query"):
        lsh_attention(query, query[:, :, :3])
    with pytest.raises(ValueError, match="value must match query"):
        lsh_attention(query, query.double())
    with pytest.raises(ValueError, match="key must match query"):
        local_attention(query, query[..., :2], query, window_length=2)
    with pytest.raises(ValueError, match="backend is 'fast'"):
        lsh_attention(query, query, backend="fast")
    with pytest.raises(ValueError, match="segment_ids must be"):
        lsh_attention(query, query, segment_ids=torch.zeros(1, 5, dtype=torch.int64))
    with pytest.raises(ValueError, match="segment_ids must be"):
        local_attention(
            query, query, query, window_length=2, segment_ids=torch.zeros(2, 6, dtype=torch.int64)
        )
    with pytest.raises(ValueError, match="segment_ids must be"):
        local_attention(
            query, query, query, window_length=2, segment_ids=torch.zeros(1, 5), rule="chunk"
        )
    with pytest.raises(ValueError, match="buckets must be"):
        lsh_attention(query, query, buckets=torch.zeros(6, dtype=torch.uint8))
    with pytest.raises(ValueError, match="order must be"):
        lsh_attention(query, query, buckets=torch.zeros(1, 1, 4, 6, dtype=torch.uint8))

"""Position-wise functions in slices against the same functions at once."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from reformer.ops.sliced import apply_sliced, chunked_cross_entropy

LENGTH, WIDTH, VOCABULARY = 37, 6, 11


def leaves(seed: int, *shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        for shape in shapes
    ]


def assert_equal_gradients(
    found: Tensor, expected: Tensor, inputs: list[Tensor], upstream: Tensor
) -> None:
    assert (found - expected).abs().max() <= 1e-12 * expected.abs().max() + 1e-14
    for result, wanted in zip(
        torch.autograd.grad(found, inputs, upstream),
        torch.autograd.grad(expected, inputs, upstream),
        strict=True,
    ):
        assert (result - wanted).abs().max() <= 1e-12 * wanted.abs().max() + 1e-14


@pytest.mark.parametrize("slice_length", [1, 5, 36, 37, 38, 1000])
def test_sliced_feed_forward_is_the_feed_forward(slice_length: int) -> None:
    x, inner, bias, outer = leaves(0, (LENGTH, WIDTH), (24, WIDTH), (24,), (WIDTH, 24))

    def feed_forward(part: Tensor) -> Tensor:
        return functional.linear(functional.gelu(functional.linear(part, inner, bias)), outer)

    found = apply_sliced(feed_forward, x, slice_length, [inner, bias, outer])
    upstream = leaves(1, (LENGTH, WIDTH))[0].detach()
    assert_equal_gradients(found, feed_forward(x), [x, inner, bias, outer], upstream)


@pytest.mark.parametrize("is_right", [True, False])
def test_an_expected_gradient_spares_a_pass_and_a_wrong_one_harms_nothing(is_right: bool) -> None:
    x, weight = leaves(0, (LENGTH, WIDTH), (VOCABULARY, WIDTH))
    computed: list[int] = []

    def function(part: Tensor) -> Tensor:
        computed.append(part.shape[0])
        return functional.linear(part, weight).square()

    (upstream,) = (t.detach() for t in leaves(1, (LENGTH, VOCABULARY)))
    expected = upstream.clone()
    if not is_right:
        expected[-1, 0] += 1.0
    found = apply_sliced(function, x, 8, [weight], expected)
    gradients = torch.autograd.grad(found, [x, weight], upstream)
    assert sum(computed) == LENGTH * (1 if is_right else 2)
    plain = apply_sliced(function, x, 8, [weight])
    assert torch.equal(found, plain)
    for result, wanted in zip(
        gradients, torch.autograd.grad(plain, [x, weight], upstream), strict=True
    ):
        assert torch.equal(result, wanted)


@pytest.mark.parametrize("slice_length", [1, 5, 36, 37, 38, 1000])
@pytest.mark.parametrize("ignored", [0, 10, 36])
def test_chunked_cross_entropy_is_cross_entropy(slice_length: int, ignored: int) -> None:
    hidden, weight, bias = leaves(0, (LENGTH, WIDTH), (VOCABULARY, WIDTH), (VOCABULARY,))
    labels = torch.randint(0, VOCABULARY, (LENGTH,), generator=torch.Generator().manual_seed(2))
    labels[torch.randperm(LENGTH, generator=torch.Generator().manual_seed(3))[:ignored]] = -100

    def head(part: Tensor) -> Tensor:
        return functional.linear(part, weight, bias)

    found = chunked_cross_entropy(head, hidden, labels, slice_length, [weight, bias])
    expected = functional.cross_entropy(head(hidden), labels)
    assert_equal_gradients(
        found, expected, [hidden, weight, bias], torch.tensor(0.7, dtype=torch.float64)
    )


def test_a_loss_without_a_label_that_counts_is_zero_and_pulls_nowhere() -> None:
    hidden, weight = leaves(0, (LENGTH, WIDTH), (VOCABULARY, WIDTH))
    labels = torch.full((LENGTH,), -100)
    loss = chunked_cross_entropy(lambda x: x @ weight.T, hidden, labels, 8, [weight])
    assert float(loss.detach()) == 0.0
    for grad in torch.autograd.grad(loss, [hidden, weight]):
        assert not grad.any()


def test_only_what_needs_a_gradient_gets_one() -> None:
    hidden, weight = leaves(0, (LENGTH, WIDTH), (VOCABULARY, WIDTH))
    labels = torch.zeros(LENGTH, dtype=torch.int64)
    frozen = weight.detach()
    loss = chunked_cross_entropy(lambda x: x @ frozen.T, hidden, labels, 8, [frozen])
    (grad,) = torch.autograd.grad(loss, [hidden])
    assert grad.shape == hidden.shape
    loss = chunked_cross_entropy(lambda x: x @ weight.T, hidden.detach(), labels, 8, [weight])
    (grad,) = torch.autograd.grad(loss, [weight])
    assert grad.shape == weight.shape
    with torch.no_grad():
        loss = chunked_cross_entropy(lambda x: x @ weight.T, hidden, labels, 8, [weight])
    assert not loss.requires_grad
    out = apply_sliced(lambda x: x @ frozen.T, hidden, 8, [frozen])
    (grad,) = torch.autograd.grad(out.sum(), [hidden])
    assert grad.shape == hidden.shape
    out = apply_sliced(lambda x: x @ weight.T, hidden.detach(), 8, [weight])
    (grad,) = torch.autograd.grad(out.sum(), [weight])
    assert grad.shape == weight.shape


def run(kind: str, function: Callable[[Tensor], Tensor], x: Tensor, weight: Tensor) -> Tensor:
    if kind == "feed_forward":
        return apply_sliced(function, x, 8, [weight]).float().square().mean()
    labels = torch.arange(LENGTH) % VOCABULARY
    return chunked_cross_entropy(function, x, labels, 8, [weight])


@pytest.mark.parametrize("kind", ["feed_forward", "loss"])
def test_slices_are_computed_again_under_the_autocast_of_the_forward(kind: str) -> None:
    x, weight = (
        t.detach().float().requires_grad_() for t in leaves(0, (LENGTH, WIDTH), (VOCABULARY, WIDTH))
    )
    seen: list[torch.dtype] = []

    def function(part: Tensor) -> Tensor:
        result = functional.linear(part, weight)
        seen.append(result.dtype)
        return result

    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = run(kind, function, x, weight)
    outside = torch.autograd.grad(loss, [x, weight])
    assert set(seen) == {torch.bfloat16}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = run(kind, function, x, weight)
        for wanted, found in zip(outside, torch.autograd.grad(loss, [x, weight]), strict=True):
            assert torch.equal(wanted, found)


def test_a_loss_that_was_differentiated_says_so_when_asked_again() -> None:
    hidden, weight = leaves(0, (LENGTH, WIDTH), (VOCABULARY, WIDTH))
    labels = torch.zeros(LENGTH, dtype=torch.int64)
    loss = chunked_cross_entropy(lambda x: x @ weight.T, hidden, labels, 8, [weight])
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="compute it again"):
        loss.backward()

"""When the optimizer uses gradients: after the backward pass, or one by one within it.

Within it, a parameter is updated as soon as its gradient is whole, and the gradient is freed, so
that one tensor's exists at a time instead of all. The backward pass has then done with that
parameter: what it still differentiates lies below it, and reversible layers rebuild theirs.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from reformer.settings import Gradients
from reformer.training.optim import (
    Agree,
    NonFiniteError,
    alone,
    apply_update,
    bad_gradient,
    find_non_finite,
    require_finite,
    set_rate,
)

T = TypeVar("T")


class PartlyUpdatedError(NonFiniteError):
    """A gradient was not finite when others had been used already: the weights are spoilt."""


class Step(Protocol):
    """One update of the weights."""

    def __call__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        differentiate: Callable[[], T],
        rate: float,
        clip_norm: float,
        agree: Agree = alone,
    ) -> tuple[T, float]:
        """What ``differentiate`` returns, which runs a forward and a backward pass, and the
        gradients' global norm before clipping. NonFiniteError names what is not finite."""
        ...


def step_after(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    differentiate: Callable[[], T],
    rate: float,
    clip_norm: float,
    agree: Agree = alone,
) -> tuple[T, float]:
    """All gradients are kept until the pass is over, and clipped by their global norm."""
    result = differentiate()
    return result, apply_update(model, optimizer, rate, clip_norm, agree)


def step_within(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    differentiate: Callable[[], T],
    rate: float,
    clip_norm: float,
    agree: Agree = alone,
) -> tuple[T, float]:
    """Each gradient is clipped by its own norm, used and freed. PartlyUpdatedError when one is
    not finite; no parameter is updated from there on."""
    require_finite(model, optimizer, agree)
    set_rate(optimizer, rate)
    norms: dict[str, Tensor] = {}
    failures: list[NonFiniteError] = []

    def use(name: str, parameter: nn.Parameter) -> None:
        norms[name] = _norm(name, parameter, failures)
        if not failures:
            nn.utils.clip_grads_with_norm_([parameter], clip_norm, norms[name])
            optimizer.step()

    with _each_gradient(model, use):
        result = differentiate()
    if failures:
        raise PartlyUpdatedError(str(failures[0]))
    return result, float(_global_norm(model, norms))


def step_within_second(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    differentiate: Callable[[], T],
    rate: float,
    clip_norm: float,
    agree: Agree = alone,
) -> tuple[T, float]:
    """A pass that measures the gradients, and one that clips by their global norm, uses and frees
    them: the same bits as ``step_after``, and as there nothing changes when one is not finite."""
    require_finite(model, optimizer, agree)
    set_rate(optimizer, rate)
    norms: dict[str, Tensor] = {}
    failures: list[NonFiniteError] = []

    def measure(name: str, parameter: nn.Parameter) -> None:
        norms[name] = _norm(name, parameter, failures)

    with _each_gradient(model, measure):
        result = differentiate()
    norm = _global_norm(model, norms)
    if failures or not math.isfinite(norm):
        raise failures[0] if failures else bad_gradient(None)

    def use(name: str, parameter: nn.Parameter) -> None:
        nn.utils.clip_grads_with_norm_([parameter], clip_norm, norm)
        optimizer.step()

    with _each_gradient(model, use):
        differentiate()
    return result, float(norm)


STEPS: dict[Gradients, Step] = {
    "kept": step_after,
    "freed": step_within,
    "twice": step_within_second,
}


@contextmanager
def _each_gradient(model: nn.Module, use: Callable[[str, nn.Parameter], None]) -> Iterator[None]:
    """Call ``use`` with each parameter as soon as its gradient is whole, and free the gradient."""

    def take(name: str, parameter: nn.Parameter) -> None:
        use(name, parameter)
        parameter.grad = None

    handles = [
        parameter.register_post_accumulate_grad_hook(partial(take, name))
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _norm(name: str, parameter: nn.Parameter, failures: list[NonFiniteError]) -> Tensor:
    """The norm of a parameter's gradient; one that is not finite is added to the failures."""
    assert parameter.grad is not None
    norm = torch.linalg.vector_norm(parameter.grad)
    if not math.isfinite(norm):
        bad = find_non_finite({name: parameter.grad})
        failures.append(bad_gradient(bad))
    return norm


def _global_norm(model: nn.Module, norms: dict[str, Tensor]) -> Tensor:
    """That of all gradients together; in the model's order, so that it is the same bits."""
    ordered = [norms[name] for name, _ in model.named_parameters() if name in norms]
    return torch.linalg.vector_norm(torch.stack(ordered))

"""The optimizer does what AdamW with warmup and clipping should, and its state survives."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from reformer.settings import TrainingSettings
from reformer.training.optim import (
    NonFiniteError,
    apply_update,
    build_optimizer,
    learning_rate,
    optimizer_tensors,
    restore_optimizer,
)

SETTINGS = TrainingSettings(steps=100, warmup_steps=10, learning_rate=0.5, final_learning_rate=0.1)


def _model() -> nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Linear(4, 3)


def _fill_gradients(model: nn.Module, value: float) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, value)


def test_the_rate_rises_to_its_peak_and_falls_to_its_share() -> None:
    rates = [learning_rate(step, SETTINGS) for step in range(101)]
    assert rates[0] == pytest.approx(0.05)
    assert max(rates) == rates[9] == rates[10] == pytest.approx(0.5)
    assert rates[:10] == sorted(rates[:10]) and rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[55] == pytest.approx(0.275)
    assert rates[100] == pytest.approx(0.05)


def test_only_matrices_decay() -> None:
    model = _model()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = build_optimizer(model, replace(SETTINGS, weight_decay=0.1))
    _fill_gradients(model, 0.0)
    apply_update(model, optimizer, 0.5, 1.0)
    assert torch.allclose(model.weight, before["weight"] * (1 - 0.5 * 0.1))
    assert torch.equal(model.bias, before["bias"])


def test_gradients_are_clipped_to_the_global_norm() -> None:
    model = _model()
    optimizer = build_optimizer(model, SETTINGS)
    _fill_gradients(model, 10.0)
    assert apply_update(model, optimizer, 0.5, 1.0) == pytest.approx(10 * math.sqrt(15))
    first_moment = optimizer_tensors(model, optimizer)["weight.exp_avg"]
    assert torch.allclose(first_moment, torch.full((3, 4), 0.1 / math.sqrt(15)), rtol=1e-4)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_is_named_and_changes_nothing(value: float) -> None:
    model = _model()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = build_optimizer(model, SETTINGS)
    _fill_gradients(model, 1.0)
    model.bias.grad[1] = value  # type: ignore[index]
    with pytest.raises(NonFiniteError, match="bias"):
        apply_update(model, optimizer, 0.5, 1.0)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_restored_state_goes_on_bit_for_bit() -> None:
    models = [_model(), _model()]
    optimizers = [build_optimizer(model, SETTINGS) for model in models]
    for step in range(6):
        for model, optimizer in zip(models, optimizers, strict=True):
            _fill_gradients(model, 0.1 * step - 0.2)
            apply_update(model, optimizer, 0.01, 1.0)
        if step == 2:
            state = optimizer_tensors(models[1], optimizers[1])
            optimizers[1] = build_optimizer(models[1], SETTINGS)
            restore_optimizer(models[1], optimizers[1], state, step=3)
    for first, second in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(first, second)

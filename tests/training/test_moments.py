"""Moments in bfloat16 are right on average, and a model learns with them as well."""

from dataclasses import replace

import pytest
import torch

from reformer.models.language import ReformerForCausalLM
from reformer.ops.randomness import generator
from reformer.training.moments import MOMENTS, NarrowAdamW, round_at_random
from reformer.training.optim import (
    apply_update,
    build_optimizer,
    optimizer_tensors,
    restore_optimizer,
)
from tests.training.conftest import CONFIG, SETTINGS

NARROW = replace(SETTINGS, moments="bfloat16")


def _numbers() -> torch.Tensor:
    draw = generator(1)
    size = torch.randint(-30, 30, (4096,), generator=draw)
    return torch.randn(4096, generator=draw).ldexp(size)


def test_a_number_becomes_one_of_its_two_neighbours() -> None:
    x = _numbers()
    rounded = round_at_random(x, generator(2))
    down = (x.view(torch.int32) & -(1 << 16)).view(torch.float32)
    up = ((x.view(torch.int32) & -(1 << 16)) + (1 << 16)).view(torch.float32)
    assert rounded.dtype == torch.bfloat16
    assert bool(((rounded == down) | (rounded == up)).all())
    assert torch.equal(round_at_random(down, generator(3)).float(), down)


def test_rounding_is_right_on_average() -> None:
    """Within 5 standard deviations of the mean of 4,000 draws, which are at most half a step."""
    for value in (1.0 + 2**-10, -3.1415927, 1e-12, 65535.0):
        x = torch.full((4000,), value)
        step = abs(value) * 2**-7
        error = round_at_random(x, generator(4)).double().mean() - x.double().mean()
        assert abs(error) < 5 * step / 2 / 4000**0.5
        assert len(set(round_at_random(x, generator(4)).tolist())) == 2


def test_a_moment_decays_that_rounding_to_nearest_would_hold() -> None:
    """A second moment that loses a thousandth per step: a quarter of bfloat16's spacing."""
    model = torch.nn.Linear(64, 64)
    optimizer = build_optimizer(model, replace(NARROW, adam_beta2=0.999, adam_beta1=0.9))
    assert isinstance(optimizer, NarrowAdamW)
    start = torch.full((64, 64), 1.0, dtype=torch.bfloat16)
    assert (start * 0.999).bfloat16().equal(start)
    optimizer.state[model.weight] = {
        "step": torch.tensor(1.0), "exp_avg": torch.zeros_like(start), "exp_avg_sq": start
    }  # fmt: skip
    for _ in range(500):
        model.weight.grad = torch.zeros(64, 64)
        optimizer.step()
    left = optimizer.state[model.weight]["exp_avg_sq"].double()
    assert left.mean() == pytest.approx(0.999**500, rel=0.02)


def test_weights_see_wide_moments_and_moments_are_stored_narrow() -> None:
    """The first step is that of float32 to the last bit; what it leaves has half the size."""
    weights = []
    for settings in (SETTINGS, NARROW):
        model = ReformerForCausalLM(CONFIG).train()
        optimizer = build_optimizer(model, settings)
        ids = torch.arange(32).view(1, -1)
        model(ids, labels=ids, draw=0).loss.backward()
        apply_update(model, optimizer, 0.01, 1.0)
        weights.append(list(model.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
    moments = optimizer_tensors(model, optimizer)
    assert len(moments) == 2 * len(weights[0])
    assert {tensor.dtype for tensor in moments.values()} == {torch.bfloat16}


def test_moments_of_another_type_are_refused() -> None:
    model = torch.nn.Linear(2, 2)
    for settings, dtype in ((SETTINGS, torch.bfloat16), (NARROW, torch.float32)):
        moments = {
            f"{name}.{moment}": torch.zeros_like(p, dtype=dtype)
            for name, p in model.named_parameters()
            for moment in MOMENTS
        }
        with pytest.raises(ValueError, match=f"weight.exp_avg is {dtype}"):
            restore_optimizer(model, build_optimizer(model, settings), moments, step=1)

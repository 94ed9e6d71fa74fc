"""A NaN or an infinity, wherever it appears, ends training in that step and is never saved."""

import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from reformer.models.language import ReformerForCausalLM
from reformer.tasks import prepare_task
from reformer.training import loop
from reformer.training.checkpoint import Checkpoint, load_latest
from reformer.training.loop import TrainingError, TrainingState, train
from reformer.training.optim import optimizer_tensors
from reformer.training.run import Run
from tests.training.conftest import CONFIG, Listener
from tests.trust.conftest import new_run
from tests.trust.tiers import record, tiers

VALUES = (float("nan"), float("inf"), float("-inf"))
Spoil = Callable[[TrainingState, random.Random, float], str]


def _entry(tensors: dict[str, Tensor], rng: random.Random, value: float) -> str:
    """Spoil one random number; the tensor's name."""
    name = rng.choice(sorted(tensors))
    with torch.no_grad():
        tensors[name].view(-1)[rng.randrange(tensors[name].numel())] = value
    return name


def _weight(state: TrainingState, rng: random.Random, value: float) -> str:
    return _entry(dict(state.model.named_parameters()), rng, value)


def _moment(state: TrainingState, rng: random.Random, value: float) -> str:
    return _entry(optimizer_tensors(state.model, state.optimizer), rng, value)


def _gradient(state: TrainingState, rng: random.Random, value: float) -> str:
    name = rng.choice([name for name, _ in state.model.named_parameters()])
    place = rng.random()

    def spoil(gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        gradient.view(-1)[int(place * gradient.numel())] = value
        return gradient

    dict(state.model.named_parameters())[name].register_hook(spoil)
    return name


def _loss(state: TrainingState, rng: random.Random, value: float) -> str:
    forward = state.model.forward

    def spoilt(*args: Any, **kwargs: Any) -> Any:
        out = forward(*args, **kwargs)
        return type(out)(loss=out.loss * value)

    state.model.forward = spoilt  # type: ignore[method-assign]
    return "the loss is"


def _until(step: int, run: Run, spoil: Spoil, rng: random.Random, value: float) -> tuple[str, str]:
    """Train; something is spoilt as the step begins. What it was, and the error."""
    name, before, after = "", list[Tensor](), list[Tensor]()
    update = loop.update

    def interfere(state: TrainingState, *args: Any) -> Any:
        nonlocal name
        if state.step + 1 < step:
            return update(state, *args)
        assert state.step + 1 == step, "the step before should have been the last"
        name = spoil(state, rng, value)
        parameters = list(state.model.parameters())
        before.extend(p.detach().clone() for p in parameters)
        after.extend(p.detach() for p in parameters)
        return update(state, *args)

    prepared, task = prepare_task(run, length_fixed=True, say=print)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "update", interfere)
        with pytest.raises(TrainingError) as caught:
            train(prepared, task, Listener(), torch.device("cpu"))
    for old, new in zip(before, after, strict=True):
        assert torch.equal(old.view(torch.int32), new.view(torch.int32)), "a weight was changed"
    return name, str(caught.value)


def _finite(checkpoint: Checkpoint) -> bool:
    names = ("model.safetensors", "optimizer.safetensors")
    return all(
        bool(torch.isfinite(tensor).all())
        for name in names
        for tensor in checkpoint.tensors(name).values()
    )


@tiers(small=12, middle=80, full=200)
def test_it_is_caught_in_its_step_by_name(scratch: Path, pages: Path, count: int) -> None:
    kinds: tuple[Spoil, ...] = (_weight, _moment, _gradient, _loss)
    for trial in range(count):
        rng = random.Random(trial)
        run = new_run(scratch / "run", pages, steps=6, evaluate_every=2, save_every=2)
        spoil, value = kinds[trial % len(kinds)], VALUES[trial // len(kinds) % len(VALUES)]
        step = rng.randint(2, 6)
        name, said = _until(step, run, spoil, rng, value)
        case = f"trial {trial}, {spoil.__name__} {value} before step {step}: {said}"
        assert name in said and f"step {step}" in said, case
        found = load_latest(run.checkpoints, pytest.fail)
        saved = {_weight: (step - 1) // 2 * 2, _moment: (step - 1) // 2 * 2}
        assert (found.step if found else 0) == saved.get(spoil, step - 1), case
        assert found is None or _finite(found), case
        if run.has_model:
            model = ReformerForCausalLM.from_pretrained(run.path)
            assert all(bool(torch.isfinite(p).all()) for p in model.parameters()), case
        shutil.rmtree(run.path)
    record("T8", "NaN or infinity put into a weight, moment, gradient or loss", count,
           caught_in_that_step=count, weights_changed=0, saved_not_finite=0)  # fmt: skip


def test_a_damaged_token_is_named(scratch: Path, pages: Path) -> None:
    """The batch holds an id that the model does not have."""
    run = new_run(scratch / "run", pages, config=replace(CONFIG, vocab_size=300))
    prepared, task = prepare_task(run, length_fixed=True, say=print)
    tokens = np.memmap(run.data / "train.tokens", np.uint16, mode="r+")
    tokens[:] = 33000
    tokens.flush()
    with pytest.raises(TrainingError, match=r"step 1: .* the id 33000.* delete that folder"):
        train(prepared, task, Listener(), torch.device("cpu"))

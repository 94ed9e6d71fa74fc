"""Gradients freed within the backward pass train as kept ones do, where that is promised."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from reformer.config import ConfigError, ReformerConfig
from reformer.models.encoder_decoder import ReformerEncoderDecoder
from reformer.models.language import ReformerForCausalLM
from reformer.settings import Gradients
from reformer.tasks import prepare_task
from reformer.training import loop
from reformer.training.checkpoint import load_latest
from reformer.training.distributed import Alone
from reformer.training.gradients import STEPS, PartlyUpdatedError, step_within
from reformer.training.loop import TrainingError, TrainingState, train
from reformer.training.optim import NonFiniteError, build_optimizer, optimizer_tensors
from reformer.training.run import Run, RunDescription
from tests.training.conftest import CONFIG, SETTINGS, Listener, MakeRun

DEEP = replace(CONFIG, layers=CONFIG.layers * 2, slice_length=20)
RATE = 0.01


def _tokens(step: int) -> Tensor:
    return torch.randint(256, (2, 32), generator=torch.Generator().manual_seed(step))


def _pass(model: nn.Module, step: int) -> float:
    """A forward and a backward pass; the loss."""
    loss = model(_tokens(step), labels=_tokens(step), draw=step).loss
    loss.backward()
    return float(loss.detach())


def _trained(
    gradients: Gradients, config: ReformerConfig, *, clip_norm: float, steps: int = 4
) -> tuple[dict[str, Tensor], list[tuple[float, float]]]:
    """Weights and moments after some steps, and each step's loss and norm."""
    model = ReformerForCausalLM(config).train()
    optimizer = build_optimizer(model, SETTINGS)
    rows = [
        STEPS[gradients](model, optimizer, lambda s=step: _pass(model, s), RATE, clip_norm)
        for step in range(steps)
    ]
    return model.state_dict() | optimizer_tensors(model, optimizer), rows


@pytest.mark.parametrize("streams", ["exact", "float", "stored"])
def test_two_passes_train_as_kept_gradients_to_the_last_bit(streams: str) -> None:
    config = replace(DEEP, streams=streams)
    kept, rows = _trained("kept", config, clip_norm=0.5)
    twice, same_rows = _trained("twice", config, clip_norm=0.5)
    assert rows == same_rows and min(norm for _, norm in rows) > 0.5
    assert kept.keys() == twice.keys()
    assert all(torch.equal(kept[name], twice[name]) for name in kept)


@pytest.mark.parametrize("streams", ["exact", "float", "stored"])
def test_freed_gradients_that_are_not_clipped_train_as_kept_ones(streams: str) -> None:
    """Each is taken before it is freed, and no parameter changes while it is still needed."""
    config = replace(DEEP, streams=streams)
    kept, rows = _trained("kept", config, clip_norm=1e6)
    freed, same_rows = _trained("freed", config, clip_norm=1e6)
    assert rows == same_rows
    assert all(torch.equal(kept[name], freed[name]) for name in kept)


@pytest.mark.parametrize("gradients", ["freed", "twice"])
def test_an_encoder_with_its_decoder_trains_so_too(gradients: Gradients) -> None:
    config = replace(CONFIG, encoder_layers=CONFIG.layers)
    results = []
    for way in ("kept", gradients):
        model = ReformerEncoderDecoder(config).train()
        optimizer = build_optimizer(model, SETTINGS)

        def differentiate() -> float:
            source, target = _tokens(1), _tokens(2)
            loss = model(source, target_ids=target, labels=target, draw=0).loss  # noqa: B023
            loss.backward()
            return float(loss.detach())

        rows = [STEPS[way](model, optimizer, differentiate, RATE, 1e6) for _ in range(2)]
        results.append((rows, model.state_dict() | optimizer_tensors(model, optimizer)))
    (kept_rows, kept), (rows, found) = results
    assert kept_rows == rows and len(found) == len(kept)
    assert all(torch.equal(kept[name], found[name]) for name in kept)


def test_freed_gradients_are_clipped_each_by_its_own_norm() -> None:
    model = nn.Linear(4, 3)
    optimizer = build_optimizer(model, SETTINGS)

    def differentiate() -> None:
        ((model.weight * 10).sum() + (model.bias * 0.1).sum()).backward()

    _, norm = step_within(model, optimizer, differentiate, RATE, 1.0)
    assert norm == pytest.approx((12 * 100 + 3 * 0.01) ** 0.5)
    moments = optimizer_tensors(model, optimizer)
    assert torch.allclose(moments["weight.exp_avg"], torch.tensor(0.1 / 12**0.5), rtol=1e-4)
    assert torch.allclose(moments["bias.exp_avg"], torch.tensor(0.01))


@pytest.mark.parametrize("gradients", ["freed", "twice"])
def test_one_gradient_exists_at_a_time(gradients: Gradients) -> None:
    model = ReformerForCausalLM(DEEP).train()
    optimizer = build_optimizer(model, SETTINGS)
    parameters = dict(model.named_parameters())
    together: list[int] = []
    for parameter in parameters.values():
        parameter.register_post_accumulate_grad_hook(
            lambda _: together.append(sum(p.grad is not None for p in parameters.values()))
        )
    STEPS[gradients](model, optimizer, lambda: _pass(model, 0), RATE, 1.0)
    assert set(together) == {1} and len(together) >= len(parameters)
    assert all(p.grad is None for p in parameters.values())


def _spoil(model: nn.Module, name: str, value: float) -> None:
    dict(model.named_parameters())[name].register_hook(lambda gradient: gradient * value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("gradients", ["kept", "twice"])
def test_a_gradient_that_is_not_finite_changes_nothing(gradients: Gradients, value: float) -> None:
    model = ReformerForCausalLM(DEEP).train()
    optimizer = build_optimizer(model, SETTINGS)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    name = "reformer.blocks.0.feed_forward.inner.weight"
    _spoil(model, name, value)
    with pytest.raises(NonFiniteError, match=name):
        STEPS[gradients](model, optimizer, lambda: _pass(model, 0), RATE, 1.0)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert not optimizer_tensors(model, optimizer)


def test_after_a_gradient_that_is_not_finite_no_more_is_updated() -> None:
    model = ReformerForCausalLM(DEEP).train()
    optimizer = build_optimizer(model, SETTINGS)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    _spoil(model, "reformer.blocks.2.feed_forward.inner.weight", float("nan"))
    with pytest.raises(PartlyUpdatedError, match=r"blocks\.2\.feed_forward\.inner\.weight"):
        step_within(model, optimizer, lambda: _pass(model, 0), RATE, 1.0)
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert "head.weight" in changed and "reformer.blocks.3.attention.value.weight" in changed
    assert not any(".blocks.0." in name or ".blocks.1." in name for name in changed)
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())


def _train(run: Run, on_step: Callable[..., None] | None = None) -> None:
    prepared, task = prepare_task(run, length_fixed=True, say=print)
    train(prepared, task, Listener(on_step), torch.device("cpu"))


def _files(run: Run) -> list[bytes]:
    step = run.checkpoints / f"step-{run.description.settings.steps:06d}"
    names = ("model.safetensors", "optimizer.safetensors", "state.json")
    return [step.joinpath(name).read_bytes() for name in names]


@pytest.mark.parametrize("moments", ["float32", "bfloat16"])
@pytest.mark.parametrize("gradients", ["kept", "freed", "twice"])
def test_a_run_resumes_as_if_it_had_not_stopped(
    make_run: MakeRun, gradients: Gradients, moments: str
) -> None:
    straight = make_run("straight", gradients=gradients, moments=moments)
    _train(straight)
    stopped = make_run("stopped", gradients=gradients, moments=moments)

    def stop(row: dict[str, object]) -> None:
        if row["step"] == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _train(stopped, stop)
    _train(stopped)
    assert _files(straight) == _files(stopped)


def test_weights_that_are_partly_updated_are_never_saved(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run ends with a sentence, and goes on from the last checkpoint as a straight one."""
    run, straight = make_run("run", gradients="freed"), make_run("straight", gradients="freed")
    _train(straight)
    update = loop.update

    def spoiling(state: TrainingState, *args: object) -> object:
        if state.step == 6:
            _spoil(state.model, "reformer.blocks.0.attention.value.weight", float("nan"))
        return update(state, *args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(loop, "update", spoiling)
        with pytest.raises(TrainingError, match=r"step 7: .*value\.weight .*last\s+checkpoint"):
            _train(run)
    found = load_latest(run.checkpoints, pytest.fail)
    assert found is not None and found.step == 4
    _train(run)
    assert _files(run) == _files(straight)


def test_passes_whose_gradients_would_be_added_up_are_refused() -> None:
    for gradients in ("freed", "twice"):
        with pytest.raises(ConfigError, match="accumulation_steps is 2"):
            replace(SETTINGS, gradients=gradients, accumulation_steps=2)


def test_several_processes_are_refused(tmp_path: Path) -> None:
    settings = replace(SETTINGS, gradients="freed")
    assert Alone.count == RunDescription("test", CONFIG, settings).processes
    with pytest.raises(ConfigError, match="gradients is 'freed': each of the 2 processes"):
        RunDescription("test", CONFIG, settings, processes=2)

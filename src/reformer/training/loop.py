"""The training loop: update, validate, record, save, and stop or go on at any step.

Everything random is named by the step: the sequences of a batch, the hash rotations and the
dropout masks. A run that stops and resumes therefore computes what the straight run would
have computed, bit for bit.
"""

import math
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from reformer.data.sources import Batch, Source
from reformer.models.pretrained import PretrainedReformer
from reformer.models.reformer import VocabularyError
from reformer.nn.streams import StreamRangeError
from reformer.settings import TrainingSettings
from reformer.training.checkpoint import (
    Checkpoint,
    CheckpointError,
    load_latest,
    save_checkpoint,
)
from reformer.training.metrics import MetricsWriter
from reformer.training.optim import (
    NonFiniteError,
    apply_update,
    build_optimizer,
    find_non_finite,
    learning_rate,
    optimizer_tensors,
    restore_optimizer,
)
from reformer.training.run import Run
from reformer.training.stop import StopRequest, StopRequestedError
from reformer.training.task import Task

Row = dict[str, Any]


class Reporter(Protocol):
    """Who watches a run."""

    def say(self, sentence: str) -> None:
        """Something that the user should know."""
        ...

    def step(self, row: Row, tokens_seen: int) -> None:
        """A step is done; ``row`` is its line of metrics.jsonl."""
        ...


class TrainingError(RuntimeError):
    """Training cannot go on; the message names the step and the tensor."""


@dataclass
class TrainingState:
    """All that changes in training. ``pending``: the row of a step that is not yet written."""

    model: PretrainedReformer
    optimizer: torch.optim.AdamW
    step: int = 0
    best_cost: float | None = None
    best_step: int | None = None
    pending: Row | None = None


@dataclass(frozen=True)
class Outcome:
    """How a run ended. exit_code: 0, or 128 + the signal that stopped it."""

    model: PretrainedReformer
    step: int
    best_step: int | None
    exit_code: int
    seconds: float
    metrics: dict[str, Any]
    """Metrics of the best weights on all of the validation data; empty when stopped."""


def train(run: Run, task: Task, reporter: Reporter, device: torch.device) -> Outcome:
    """Train from the last checkpoint, if there is one, to the last step or a signal.

    Raises TrainingError for a NaN or an infinity, with the weights as they were before that
    step saved, and CheckpointError when the disk fails.
    """
    started = time.monotonic()
    state = start_or_resume(run, task.model, reporter, device)
    with ExitStack() as stack:
        stop = stack.enter_context(StopRequest())
        metrics = MetricsWriter(run.metrics, run.tensorboard, state.step)
        stack.callback(metrics.close)
        try:
            _train_steps(run, task, state, metrics, reporter, stop)
            best = task.model.from_pretrained(run.path).to(device)
            final = task.validation.measure(best, whole=True, pause=stop.check)
            exit_code = 0
        except StopRequestedError as stopped:
            _save(run, state)
            best, final, exit_code = state.model, {}, stopped.exit_code
        except (NonFiniteError, StreamRangeError, VocabularyError) as error:
            raise _explain(run, state, error) from error
    seconds = time.monotonic() - started
    return Outcome(best, state.step, state.best_step, exit_code, seconds, final)


def start_or_resume(
    run: Run, model_class: type[PretrainedReformer], reporter: Reporter, device: torch.device
) -> TrainingState:
    """The model that the run starts from, or its newest checkpoint that is whole."""
    config, settings = run.description.config, run.description.settings
    model = model_class(config).to(device).train()
    state = TrainingState(model, build_optimizer(model, settings))
    checkpoint = load_latest(run.checkpoints, reporter.say)
    if checkpoint is None:
        if run.description.init is not None:
            model.start_from(run.description.init)
        return state
    try:
        _restore(state, checkpoint, has_best=run.has_model)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{checkpoint.folder} does not fit this run: {error}") from error
    reporter.say(f"Going on from step {state.step}.")
    return state


def _restore(state: TrainingState, checkpoint: Checkpoint, *, has_best: bool) -> None:
    state.model.load_state_dict(checkpoint.tensors("model.safetensors"))
    moments = checkpoint.tensors("optimizer.safetensors")
    restore_optimizer(state.model, state.optimizer, moments, checkpoint.step)
    state.step = checkpoint.step
    if has_best and checkpoint.state["best_cost"] is not None:
        state.best_cost = float(checkpoint.state["best_cost"])
        state.best_step = int(checkpoint.state["best_step"])
    if checkpoint.state["pending"] is not None:
        state.pending = dict(checkpoint.state["pending"])


def _train_steps(
    run: Run,
    task: Task,
    state: TrainingState,
    metrics: MetricsWriter,
    reporter: Reporter,
    stop: StopRequest,
) -> None:
    settings = run.description.settings
    tokens_per_step = _sequences_per_step(settings) * run.description.config.max_length
    while state.pending is not None or state.step < settings.steps:
        if state.pending is None:
            state.pending = update(state, task.source, settings)
        stop.check()
        row = state.pending
        if state.step % settings.evaluate_every == 0 or state.step == settings.steps:
            row |= task.validation.measure(state.model, whole=False, pause=stop.check)
            _keep_best(run, state, task.validation.cost(row))
        metrics.write(row)
        state.pending = None
        reporter.step(row, state.step * tokens_per_step)
        if state.step % settings.save_every == 0 or state.step == settings.steps:
            _save(run, state)


def _explain(run: Run, state: TrainingState, error: Exception) -> TrainingError:
    """Names the step and the tensor, after saving what is still good."""
    weights = dict(state.model.named_parameters())
    weight = find_non_finite(weights)
    if find_non_finite(weights | optimizer_tensors(state.model, state.optimizer)) is None:
        _save(run, state)
    reason = str(error) if weight is None else f"the weight {weight} holds NaN or infinity"
    if isinstance(error, VocabularyError):
        reason += f"; the tokens in {run.data} are damaged: delete that folder to make them again"
    if state.pending is not None:
        return TrainingError(f"validation failed after step {state.step}: {reason}")
    step = state.step + 1
    return TrainingError(
        f"training stopped in step {step}: {reason}; no weight was changed by that step"
    )


def update(state: TrainingState, source: Source, settings: TrainingSettings) -> Row:
    """One update of the weights, and its metrics. Advances ``state.step``.

    NonFiniteError or StreamRangeError, before any weight has changed, when a number fails.
    """
    started = time.monotonic()
    state.optimizer.zero_grad(set_to_none=True)
    nats = 0.0
    for micro_step in range(settings.accumulation_steps):
        draw = state.step * settings.accumulation_steps + micro_step
        batch = source.batch(draw * settings.batch_size, settings.batch_size)
        loss = _loss(state.model, batch, draw, settings)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise NonFiniteError(f"the loss is {value}")
        (loss / settings.accumulation_steps).backward()
        nats += value / settings.accumulation_steps
    rate = learning_rate(state.step, settings)
    norm = apply_update(state.model, state.optimizer, rate, settings.clip_norm)
    state.step += 1
    tokens = settings.accumulation_steps * batch["input_ids"].numel()
    return {
        "step": state.step,
        f"train_{source.unit.name}": nats * source.unit.per_nat,
        "learning_rate": rate,
        "gradient_norm": norm,
        "tokens_per_second": tokens / max(time.monotonic() - started, 1e-9),
    }


def _loss(model: PretrainedReformer, batch: Batch, draw: int, settings: TrainingSettings) -> Tensor:
    device = next(model.parameters()).device
    low_precision = settings.precision == "bfloat16"
    with torch.autocast(device.type, torch.bfloat16, enabled=low_precision):
        tensors = {name: tensor.to(device) for name, tensor in batch.items()}
        loss: Tensor = model(**tensors, draw=draw).loss
    return loss


def _sequences_per_step(settings: TrainingSettings) -> int:
    return settings.batch_size * settings.accumulation_steps


def _keep_best(run: Run, state: TrainingState, cost: float) -> None:
    if not math.isfinite(cost):
        raise NonFiniteError(f"the validation loss is {cost}")
    if state.best_cost is None or cost < state.best_cost:
        run.write_model(state.model)
        state.best_cost, state.best_step = cost, state.step


def _save(run: Run, state: TrainingState) -> None:
    """A checkpoint of this step; the run's model too when there is none yet."""
    save_checkpoint(
        run.checkpoints,
        state.step,
        {"best_cost": state.best_cost, "best_step": state.best_step, "pending": state.pending},
        {
            "model.safetensors": state.model.state_dict(),
            "optimizer.safetensors": optimizer_tensors(state.model, state.optimizer),
        },
        keep_last=run.description.settings.keep_last,
    )
    if not run.has_model:
        run.write_model(state.model)

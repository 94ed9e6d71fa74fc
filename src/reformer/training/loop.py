"""The training loop: update, validate, record, save, and stop or go on at any step.

Everything random is named by the step: the sequences of a batch, the hash rotations and the
dropout masks. A run that stops and resumes therefore computes what the straight run would
have computed, bit for bit.
"""

import math
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

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
    verify_checkpoint,
)
from reformer.training.distributed import Alone, Processes
from reformer.training.gradients import STEPS, PartlyUpdatedError
from reformer.training.metrics import MetricsWriter
from reformer.training.optim import (
    NonFiniteError,
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
    """All that changes in training. ``pending``: the row of a step that is not yet written.

    ``replica``: what is called instead of the model when gradients are wanted.
    """

    model: PretrainedReformer
    optimizer: torch.optim.AdamW
    step: int = 0
    best_cost: float | None = None
    best_step: int | None = None
    pending: Row | None = None
    processes: Processes = field(default_factory=Alone)

    def __post_init__(self) -> None:
        self.replica: nn.Module = self.processes.connect(self.model)


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


def train(
    run: Run,
    task: Task,
    reporter: Reporter,
    device: torch.device,
    processes: Processes | None = None,
) -> Outcome:
    """Train from the last checkpoint, if there is one, to the last step or a signal.

    processes: those that train together, all of which call this; by default one alone.

    Raises TrainingError for a NaN or an infinity, with the weights as they were before that
    step saved, and CheckpointError when the disk fails.
    """
    started = time.monotonic()
    processes = processes or Alone()
    state = start_or_resume(run, task.model, reporter, device, processes)
    with ExitStack() as stack:
        stop = stack.enter_context(StopRequest())
        metrics = None
        if processes.is_first:
            metrics = MetricsWriter(run.metrics, run.tensorboard, state.step)
            stack.callback(metrics.close)
        try:
            _train_steps(run, task, state, metrics, reporter, stop)
            best = processes.place(task.model.from_pretrained(run.path), device)
            final = _measure(task, best, processes, stop, whole=True)
            exit_code = 0
        except StopRequestedError as stopped:
            _save(run, state)
            best, final, exit_code = state.model, {}, stopped.exit_code
        except (NonFiniteError, StreamRangeError, VocabularyError) as error:
            raise _explain(run, state, error) from error
    seconds = time.monotonic() - started
    return Outcome(best, state.step, state.best_step, exit_code, seconds, final)


def start_or_resume(
    run: Run,
    model_class: type[PretrainedReformer],
    reporter: Reporter,
    device: torch.device,
    processes: Processes | None = None,
) -> TrainingState:
    """The model that the run starts from, or its newest checkpoint that is whole."""
    config, settings = run.description.config, run.description.settings
    processes = processes or Alone()
    checkpoint = _latest_checkpoint(run, reporter, processes)
    model = model_class(config).train()
    if checkpoint is None and run.description.init is not None:
        model.start_from(run.description.init)
    model = processes.place(model, device)
    state = TrainingState(model, build_optimizer(model, settings), processes=processes)
    if checkpoint is None:
        return state
    try:
        _restore(state, checkpoint, has_best=run.has_model)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{checkpoint.folder} does not fit this run: {error}") from error
    reporter.say(f"Going on from step {state.step}.")
    return state


def _latest_checkpoint(run: Run, reporter: Reporter, processes: Processes) -> Checkpoint | None:
    """What the first process finds, and tidies up, and all of them read."""
    if processes.is_first:
        checkpoint = load_latest(run.checkpoints, reporter.say)
        processes.announce(checkpoint and checkpoint.folder.name)
        return checkpoint
    name = processes.announce(None)
    return None if name is None else verify_checkpoint(run.checkpoints / name)


def _restore(state: TrainingState, checkpoint: Checkpoint, *, has_best: bool) -> None:
    weights, own = checkpoint.tensors("model.safetensors"), state.model.state_dict()
    state.model.load_state_dict(state.processes.share_out(weights, own))
    moments = checkpoint.tensors("optimizer.safetensors")
    like = {name: own[name.rpartition(".")[0]] for name in moments}
    moments = state.processes.share_out(moments, like)
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
    metrics: MetricsWriter | None,
    reporter: Reporter,
    stop: StopRequest,
) -> None:
    settings, processes = run.description.settings, state.processes
    sequences_per_step = settings.batch_size * settings.accumulation_steps * processes.count
    tokens_per_step = sequences_per_step * run.description.config.max_length
    while state.pending is not None or state.step < settings.steps:
        if state.pending is None:
            state.pending = update(state, task.source, settings)
        processes.check(stop)
        row = state.pending
        if state.step % settings.evaluate_every == 0 or state.step == settings.steps:
            row |= _measure(task, state.model, processes, stop, whole=False)
            _keep_best(run, state, task.validation.cost(row))
        if metrics is not None:
            metrics.write(row)
        state.pending = None
        reporter.step(row, state.step * tokens_per_step)
        if state.step % settings.save_every == 0 or state.step == settings.steps:
            _save(run, state)


def _measure(
    task: Task, model: PretrainedReformer, processes: Processes, stop: StopRequest, *, whole: bool
) -> Row:
    """Validation: every process computes all of it, and what the first one measured counts."""
    measured = task.validation.measure(model, whole=whole, pause=lambda: processes.check(stop))
    return processes.announce(measured)


def _explain(run: Run, state: TrainingState, error: Exception) -> TrainingError:
    """Names the step and the tensor, after saving what is still good."""
    if isinstance(error, PartlyUpdatedError):
        return TrainingError(
            f"training stopped in step {state.step + 1}: {error}; as gradients are 'freed', other "
            "weights had changed by then, and nothing was saved: --resume goes on from the last "
            "checkpoint"
        )
    weights = dict(state.model.named_parameters())
    weight = state.processes.find(find_non_finite(weights))
    spoilt = find_non_finite(weights | optimizer_tensors(state.model, state.optimizer))
    if state.processes.find(spoilt) is None:
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

    NonFiniteError or StreamRangeError, before any weight has changed, when a number fails;
    PartlyUpdatedError when weights have changed.
    """
    started, processes = time.monotonic(), state.processes
    state.optimizer.zero_grad(set_to_none=True)
    rate = learning_rate(state.step, settings)
    (nats, tokens), norm = STEPS[settings.gradients](
        state.model,
        state.optimizer,
        partial(_differentiate, state, source, settings),
        rate,
        settings.clip_norm,
        processes.find,
    )
    state.step += 1
    return {
        "step": state.step,
        f"train_{source.unit.name}": processes.mean(nats) * source.unit.per_nat,
        "learning_rate": rate,
        "gradient_norm": norm,
        "tokens_per_second": tokens / max(time.monotonic() - started, 1e-9),
    }


def _differentiate(
    state: TrainingState, source: Source, settings: TrainingSettings
) -> tuple[float, int]:
    """The mean loss in nats of a step's forward passes, each with its backward; their tokens."""
    processes, nats, tokens = state.processes, 0.0, 0
    for micro_step in range(settings.accumulation_steps):
        passes_before = state.step * settings.accumulation_steps + micro_step
        draw = passes_before * processes.count + processes.rank
        batch = source.batch(draw * settings.batch_size, settings.batch_size)
        last = micro_step == settings.accumulation_steps - 1
        with processes.accumulating(state.replica, last=last):
            with processes.agreeing():
                loss = _loss(state.replica, batch, draw, settings)
                value = float(loss.detach())
                if not math.isfinite(value):
                    raise NonFiniteError(f"the loss is {value}")
            (loss / settings.accumulation_steps).backward()
        nats += value / settings.accumulation_steps
        tokens += batch["input_ids"].numel() * processes.count
    return nats, tokens


def _loss(model: nn.Module, batch: Batch, draw: int, settings: TrainingSettings) -> Tensor:
    device = next(model.parameters()).device
    low_precision = settings.precision == "bfloat16"
    with torch.autocast(device.type, torch.bfloat16, enabled=low_precision):
        tensors = {name: tensor.to(device) for name, tensor in batch.items()}
        loss: Tensor = model(**tensors, draw=draw).loss
    return loss


def _keep_best(run: Run, state: TrainingState, cost: float) -> None:
    if not math.isfinite(cost):
        raise NonFiniteError(f"the validation loss is {cost}")
    if state.best_cost is None or cost < state.best_cost:
        _write_model(run, state, state.processes.gather(state.model.state_dict()))
        state.best_cost, state.best_step = cost, state.step


def _save(run: Run, state: TrainingState) -> None:
    """A checkpoint of this step; the run's model too when there is none yet."""
    processes = state.processes
    weights = processes.gather(state.model.state_dict())
    moments = processes.gather(optimizer_tensors(state.model, state.optimizer))
    if processes.is_first:
        save_checkpoint(
            run.checkpoints,
            state.step,
            {"best_cost": state.best_cost, "best_step": state.best_step, "pending": state.pending},
            {"model.safetensors": weights, "optimizer.safetensors": moments},
            keep_last=run.description.settings.keep_last,
        )
    if processes.announce(not run.has_model):
        _write_model(run, state, weights)


def _write_model(run: Run, state: TrainingState, weights: Mapping[str, Tensor]) -> None:
    """Make these the run's best weights; no process goes on before that is done."""
    if state.processes.is_first:
        run.write_model(state.model, weights)
    state.processes.announce(None)

"""Training a small model for a short time, for comparisons: no checkpoints, a loss curve.

``training.loop`` is for runs that must survive; here a whole run takes minutes, and what
matters is that every variant sees the same sequences, in the same order, for as many steps.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from reformer.data.sources import Source
from reformer.models.language import ReformerForCausalLM
from reformer.settings import TrainingSettings
from reformer.training.optim import apply_update, build_optimizer, learning_rate

OnStep = Callable[[int, float], None]
"""Called after each step with its number, from 1, and its loss in nats per token."""


@dataclass(frozen=True)
class ShortRun:
    """What a short run cost and how its loss fell."""

    losses: tuple[float, ...]
    """Training loss of each step, nats per token."""
    seconds_per_step: float
    """Processor seconds a step, over the threads used: other programs do not disturb it much."""


def train_briefly(
    model: ReformerForCausalLM,
    source: Source,
    settings: TrainingSettings,
    on_step: OnStep,
    *,
    first_sequence: int = 0,
) -> ShortRun:
    """Train ``model`` in place on the sequences from ``first_sequence`` on."""
    optimizer = build_optimizer(model, settings)
    model.train()
    losses = []
    started = time.process_time()
    for step in range(settings.steps):
        first = first_sequence + step * settings.batch_size
        batch = source.batch(first, settings.batch_size)
        loss = model(**batch, draw=step).loss
        loss.backward()
        rate = learning_rate(step, settings)
        apply_update(model, optimizer, rate, settings.clip_norm)
        losses.append(loss.item())
        on_step(step + 1, losses[-1])
    seconds = time.process_time() - started
    model.eval()
    return ShortRun(tuple(losses), seconds / torch.get_num_threads() / settings.steps)

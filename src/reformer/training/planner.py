"""The memory that a training run is expected to need, term by term."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from reformer.config import ConfigError, ReformerConfig
from reformer.models.reformer import Reformer
from reformer.settings import TrainingSettings

_FLOAT = 4
_BASE = 350 * 2**20
"""Python, torch and its libraries."""


@dataclass(frozen=True)
class Plan:
    """Expected bytes, and the number of parameters that they follow from."""

    num_parameters: int
    parameters: int
    gradients: int
    moments: int
    streams: int
    working_set: int
    base: int = _BASE

    @property
    def total(self) -> int:
        """All terms together."""
        return (
            self.parameters
            + self.gradients
            + self.moments
            + self.streams
            + self.working_set
            + self.base
        )

    def terms(self) -> dict[str, int]:
        """Bytes by what they are for."""
        return {
            "parameters": self.parameters,
            "gradients": self.gradients,
            "optimizer moments": self.moments,
            "streams and their gradients": self.streams,
            "one block at work": self.working_set,
            "Python and torch": self.base,
        }


def count_parameters(config: ReformerConfig) -> int:
    """Weights of the language model with this config; nothing is allocated."""
    with torch.device("meta"):
        trunk = Reformer(config)
    head = (config.features_size + 1) * config.vocab_size
    return sum(parameter.numel() for parameter in trunk.parameters()) + head


def plan(config: ReformerConfig, settings: TrainingSettings) -> Plan:
    """Estimate the peak of one training step."""
    num_parameters = count_parameters(config)
    positions = settings.batch_size * config.max_length
    stream = positions * config.hidden_size * _FLOAT
    # Two streams, a gradient for each, the embedding and its gradient.
    streams = 6 * stream
    if config.streams == "stored":
        streams += len(config.layers) * _stored_layer(config, positions)
    return Plan(
        num_parameters=num_parameters,
        parameters=num_parameters * _FLOAT,
        gradients=num_parameters * _FLOAT,
        moments=2 * num_parameters * _FLOAT,
        streams=streams,
        working_set=_working_set(config, positions),
    )


def _working_set(config: ReformerConfig, positions: int) -> int:
    """The largest of attention, feed-forward and loss, forward and backward."""
    heads = positions * config.num_heads * config.head_size
    attention = 8 * heads * _FLOAT
    in_slice = min(positions, config.slice_length)
    feed_forward = 4 * in_slice * config.feed_forward_size * _FLOAT
    loss = 3 * in_slice * config.vocab_size * _FLOAT
    return max(attention, feed_forward, loss)


def _stored_layer(config: ReformerConfig, positions: int) -> int:
    heads = positions * config.num_heads * config.head_size
    inner = positions * config.feed_forward_size
    return (4 * positions * config.hidden_size + 5 * heads + 2 * inner) * _FLOAT


def machine_memory() -> int:
    """Bytes of memory that this process may use: the machine's, or its control group's."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    try:
        return min(total, int(limit.read_text()))
    except (OSError, ValueError):
        return total


def require_memory(expected: Plan, available: int) -> None:
    """ConfigError when the run cannot fit in ``available`` bytes."""
    if expected.total > available:
        raise ConfigError(
            f"training needs about {format_bytes(expected.total)} of memory, and there are "
            f"{format_bytes(available)}: lower the length, the batch size or the model's sizes"
        )


def format_bytes(size: float) -> str:
    """A size for people, such as "1.4 GB"."""
    for unit in ("bytes", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit in ("bytes", "KB") else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"

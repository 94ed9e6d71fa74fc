"""What one layer of one forward pass must know, and keep, to be computed again identically.

Records live in the autograd context of their forward pass, never on a module, so any number
of forward passes can be under way at once.
"""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from reformer.config import ReformerConfig
from reformer.ops.hashing import DrawRotations, draw_rotations, published_rotations
from reformer.ops.randomness import derive_seed


class Memory(NamedTuple):
    """What a decoder's layers attend to: an encoder's output."""

    hidden: Tensor
    """[B, S, F], with F the config's ``features_size``."""
    is_token: Tensor | None = None
    """bool [B, S], False for padding; None where there is none."""


@dataclass
class LayerRecord:
    """One layer's part of one forward pass."""

    hash_seed: int
    """Names the hash rotations."""
    dropout_seed: int | None
    """Names the dropout masks; None switches dropout off."""
    segment_ids: Tensor | None
    """[B, L]; see ``ops.order``."""
    positions: Tensor
    """[L] or [B, L]."""
    buckets: Tensor | None = None
    """[B, H, R, L] in the smallest integer type, once the layer has hashed."""
    memory: Memory | None = None
    """In a decoder, what the layer attends to beside its own sequence."""
    gradient: Tensor | None = None
    """[B, L, D], while a branch is rebuilt: what will come back to its output."""


def layer_records(
    config: ReformerConfig, draw: int | None, segment_ids: Tensor | None, positions: Tensor
) -> list[LayerRecord]:
    """Records for a forward pass: evaluation (draw None) or the training draw with this number."""
    return [
        LayerRecord(
            hash_seed=hash_seed(config, layer, draw),
            dropout_seed=None if draw is None else derive_seed(1, config.seed, layer, draw),
            segment_ids=segment_ids,
            positions=positions,
        )
        for layer in range(len(config.layers))
    ]


def hash_seed(config: ReformerConfig, layer: int, draw: int | None = None) -> int:
    """The seed of the layer's hash rotations in evaluation, or in this training draw."""
    if config.hash_seed is not None:
        return config.hash_seed
    return derive_seed(0, config.seed, layer, *([] if draw is None else [draw]))


def rotations_of(config: ReformerConfig) -> DrawRotations:
    """How the model's rotations are drawn: those of a ``hash_seed`` are the published ones."""
    return draw_rotations if config.hash_seed is None else published_rotations

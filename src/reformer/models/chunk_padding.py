"""Padding for models whose chunk-rule layers have chunks of different lengths.

The chunk rule cuts every layer's sorted rounds into chunks. Where the lengths differ between
layers, the published models first pad the sequence to a common multiple, so that the chunks of
each round are whole in every layer; what a query sees depends on it.
"""

import math

import torch
from torch import Tensor

from reformer.config import Full, ReformerConfig


def pad_to_chunks(
    config: ReformerConfig, input_ids: Tensor, segment_ids: Tensor | None, positions: Tensor
) -> tuple[Tensor, Tensor | None, Tensor]:
    """input_ids and segment_ids [B, L], positions [L] or [B, L], all longer by the padding.

    Sequences within the shortest chunk, and models with one chunk length, need none.
    """
    lengths = {
        layer.window_length
        for layer in config.layers
        if not isinstance(layer, Full) and layer.rule == "chunk"
    }
    batch, length = input_ids.shape
    extra = -length % math.lcm(*lengths) if len(lengths) > 1 else 0
    if extra == 0 or length <= min(lengths):
        return input_ids, segment_ids, positions
    if segment_ids is None:
        segment_ids = torch.zeros_like(input_ids)
    pads = segment_ids.new_full((batch, extra), -1)
    return (
        torch.nn.functional.pad(input_ids, (0, extra)),
        torch.cat((segment_ids, pads), dim=1),
        torch.nn.functional.pad(positions, (0, extra)),
    )

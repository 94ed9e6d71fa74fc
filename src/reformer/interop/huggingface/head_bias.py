"""The bias of the language head, which versions of transformers store in three ways.

    up to 4         lm_head.bias and lm_head.decoder.bias, one tensor by two names, added
    5.0 to 5.23     lm_head.bias alone, stored and never added
    5.24 and later  lm_head.decoder.bias, added; lm_head.bias, stored and never added

What a checkpoint means is read off its tensors: the bias that is added is lm_head.decoder.bias.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from reformer.config import HeadBias

ADDED = "lm_head.decoder.bias"
STORED = "lm_head.bias"

ImportedBias = Literal["theirs", "added"]


def read_bias(
    tensors: Mapping[str, Tensor], wanted: ImportedBias
) -> tuple[HeadBias, dict[str, Tensor]]:
    """The kind of bias that the checkpoint has, and its tensors with the names of that kind.

    wanted: "theirs" adds what transformers adds. "added" adds lm_head.bias where that would be
    nothing: the bias that a checkpoint was trained with, before versions that only store it.
    """
    tensors = dict(tensors)
    added, stored = tensors.get(ADDED), tensors.get(STORED)
    if wanted == "added" and stored is not None and not _has_effect(added):
        tensors[ADDED] = tensors.pop(STORED)
        return "added", tensors
    if added is None:
        return "held", tensors
    if _has_effect(stored):
        return "both", tensors
    tensors.pop(STORED, None)
    return "added", tensors


def bias_names(kind: HeadBias) -> dict[str, str]:
    """The tensors of a head's biases: their names there and here."""
    if kind == "held":
        return {STORED: "head.bias"}
    if kind == "added":
        return {ADDED: "head.bias"}
    return {ADDED: "head.bias", STORED: "head.held_bias"}


def write_bias(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with both names, if with one: zeros are what the missing one means.

    A name that is missing would be drawn anew, with a warning.
    """
    present = tensors.get(ADDED, tensors.get(STORED))
    if present is None:
        return dict(tensors)
    nothing = torch.zeros_like(present)
    return {ADDED: nothing, STORED: nothing.clone(), **tensors}


def _has_effect(bias: Tensor | None) -> bool:
    return bias is not None and bool(bias.float().any())

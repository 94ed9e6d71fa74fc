"""Tensor names of Hugging Face's Reformer beside ours, each accounted for.

Both libraries hold the same numbers; only names differ, and the shape of axial tables, which
theirs stores ready for broadcasting: [1, n2, d2] for the second of two axes.
"""

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from reformer.config import LSH, ReformerConfig
from reformer.interop.errors import ConversionError
from reformer.interop.huggingface.configuration import (
    BARE,
    CAUSAL,
    CLASSIFICATION,
    MASKED,
    QUESTION_ANSWERING,
)
from reformer.interop.huggingface.head_bias import bias_names, write_bias

# Constants that old versions of transformers stored among the weights.
_CONSTANTS = re.compile(r"\.self_attention\.(self_)?mask_value_float(16|32)$")


class Pair(NamedTuple):
    """One tensor: its name there, its name here, and its shape there (None: as here)."""

    theirs: str
    ours: str
    shape: tuple[int, ...] | None = None


def pairs(config: ReformerConfig, architecture: str) -> Iterator[Pair]:
    """Every tensor of the model."""
    trunk = "" if architecture == BARE else "reformer."
    yield Pair(f"{trunk}embeddings.word_embeddings.weight", "reformer.embedding.tokens.weight")
    yield from _position_pairs(config, f"{trunk}embeddings.position_embeddings")
    for index, layer in enumerate(config.layers):
        theirs, ours = f"{trunk}encoder.layers.{index}", f"reformer.blocks.{index}"
        projections = ("query_key",) if isinstance(layer, LSH) else ("query", "key")
        for name in (*projections, "value"):
            yield Pair(
                f"{theirs}.attention.self_attention.{name}.weight",
                f"{ours}.attention.{name}.weight",
            )
        yield Pair(f"{theirs}.attention.output.dense.weight", f"{ours}.attention.output.weight")
        for name, own in (
            ("attention.layer_norm", "attention_norm"),
            ("feed_forward.layer_norm", "feed_forward_norm"),
            ("feed_forward.dense.dense", "feed_forward.inner"),
            ("feed_forward.output.dense", "feed_forward.output"),
        ):
            yield from _affine(f"{theirs}.{name}", f"{ours}.{own}")
    yield from _affine(f"{trunk}encoder.layer_norm", "reformer.norm")
    if architecture in (CAUSAL, MASKED):
        yield Pair("lm_head.decoder.weight", "head.weight")
        for theirs, ours in bias_names(config.head_bias).items():
            yield Pair(theirs, ours)
    elif architecture == CLASSIFICATION:
        yield from _affine("classifier.dense", "head.dense")
        yield from _affine("classifier.out_proj", "head.scores")
    elif architecture == QUESTION_ANSWERING:
        yield from _affine("qa_outputs", "head")


def _affine(theirs: str, ours: str) -> Iterator[Pair]:
    for part in ("weight", "bias"):
        yield Pair(f"{theirs}.{part}", f"{ours}.{part}")


def _position_pairs(config: ReformerConfig, theirs: str) -> Iterator[Pair]:
    ours = "reformer.embedding.positions.tables"
    shape = config.position_shape
    if len(shape) == 1:
        yield Pair(f"{theirs}.embedding.weight", f"{ours}.0")
        return
    for axis, size in enumerate(config.position_sizes):
        extents = [1] * len(shape)
        extents[axis] = shape[axis]
        yield Pair(f"{theirs}.weights.{axis}", f"{ours}.{axis}", (*extents, size))


def import_tensors(
    theirs: Mapping[str, Tensor], wanted: list[Pair], expected: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Our state dict from theirs; ``expected`` is one of the right shapes (meta will do).

    Half-precision tensors become float32. A missing, superfluous or ill-shaped tensor raises
    ``ConversionError``.
    """
    found = {}
    for pair in wanted:
        if pair.theirs not in theirs:
            raise ConversionError(f"the weights lack {pair.theirs}")
        tensor = theirs[pair.theirs]
        shape = tuple(expected[pair.ours].shape)
        if tuple(tensor.shape) != (pair.shape or shape):
            raise ConversionError(
                f"{pair.theirs} is {list(tensor.shape)}, but the configuration asks for "
                f"{list(pair.shape or shape)}"
            )
        if not tensor.is_floating_point():
            raise ConversionError(f"{pair.theirs} is {tensor.dtype}: weights are floating point")
        wide = tensor.dtype if tensor.dtype == torch.float64 else torch.float32
        found[pair.ours] = tensor.detach().to(wide, copy=True).reshape(shape)
    _check_rest(theirs, wanted)
    return found


def _check_rest(theirs: Mapping[str, Tensor], wanted: list[Pair]) -> None:
    rest = set(theirs) - {pair.theirs for pair in wanted}
    for name in sorted(rest):
        if _CONSTANTS.search(name):
            continue
        raise ConversionError(f"the weights hold {name}, which this architecture does not have")


def export_tensors(ours: Mapping[str, Tensor], wanted: list[Pair]) -> dict[str, Tensor]:
    """Their state dict from ours."""
    return write_bias(
        {
            pair.theirs: ours[pair.ours].detach().cpu().reshape(pair.shape or ours[pair.ours].shape)
            for pair in wanted
        }
    )

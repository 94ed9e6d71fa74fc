"""Trax's ReformerLM weights as ours.

Trax stores a model as a pickle, often gzipped, whose "weights" nest as its layers do:

    [shift, [vocab, D], dropout, positions, dup, layers, concatenate, norm, dropout, head]

with four entries for each layer: the half-residual of attention, a swap, that of the
feed-forward layer, a swap. The pickle is read as plain data, and nothing in it is run.
"""

import gzip
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reformer.config import LSH, ReformerConfig
from reformer.interop.errors import ConversionError
from reformer.interop.plain_pickle import read_pickle
from reformer.models.language import ReformerForCausalLM

_LARGEST_FILE = 1 << 34
_PIECE = 1 << 20


def load(
    path: str | os.PathLike[str], config: ReformerConfig, *, largest: int = _LARGEST_FILE
) -> ReformerForCausalLM:
    """A Trax ReformerLM as a model of this library, in evaluation mode.

    path: model.pkl or model.pkl.gz. config: what the weights do not say, chunk lengths,
    hashing, the activation; its sizes must be those of the weights. The chunk rule is what Trax
    computes. largest: bytes that the file may have when unpacked. Raises ``ConversionError``.
    """
    values = read_pickle(_read(Path(path), largest))
    if not isinstance(values, Mapping) or "weights" not in values:
        raise ConversionError(f"{path} holds no Trax model: it has no 'weights'")
    return from_weights(values["weights"], config)


def from_weights(weights: Any, config: ReformerConfig) -> ReformerForCausalLM:
    """The same from the weights themselves, nested lists and tuples of arrays."""
    found = dict(_tensors(_Nest(weights, "weights"), config))

    def read(expected: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        for name, tensor in expected.items():
            if found[name].shape != tensor.shape:
                raise ConversionError(
                    f"{name} is {list(found[name].shape)} in the weights, but the configuration "
                    f"asks for {list(tensor.shape)}"
                )
        return found

    return ReformerForCausalLM(config, read=read).eval()


def _read(path: Path, largest: int) -> bytes:
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        data = bytearray()
        with gzip.open(path) if packed else path.open("rb") as file:
            # In pieces: a read of the largest size at once would reserve as much memory.
            while piece := file.read(_PIECE):
                data += piece
                if len(data) > largest:
                    raise ConversionError(f"{path} holds more than {largest} bytes")
    except (OSError, EOFError, zlib.error) as error:
        raise ConversionError(f"cannot read {path}: {error}") from error
    return bytes(data)


class _Nest:
    """A place in the nested weights, which knows its own name."""

    def __init__(self, value: Any, name: str) -> None:
        self.value, self.name = value, name

    def __getitem__(self, index: int) -> "_Nest":
        if not isinstance(self.value, (list, tuple)) or index >= len(self.value):
            raise ConversionError(f"{self.name} has no entry {index}: this is no Trax ReformerLM")
        return _Nest(self.value[index], f"{self.name}[{index}]")

    def __len__(self) -> int:
        return len(self.value) if isinstance(self.value, (list, tuple)) else 0

    def tensor(self, rank: int) -> Tensor:
        if not isinstance(self.value, np.ndarray) or self.value.ndim != rank:
            raise ConversionError(f"{self.name} is no array of {rank} axes")
        return torch.from_numpy(self.value.astype(np.float32))

    def matrix(self) -> Tensor:
        """A dense layer's [in, out] as torch's [out, in]."""
        return self.tensor(2).T.contiguous()


def _tensors(weights: _Nest, config: ReformerConfig) -> Iterator[tuple[str, Tensor]]:
    yield "reformer.embedding.tokens.weight", weights[1].tensor(2)
    shape = config.position_shape
    for axis, size in enumerate(config.position_sizes):
        table = weights[3][axis]
        # Stored ready for broadcasting over the batch and the other axes.
        values = (table[0] if len(table) else table).value
        if not isinstance(values, np.ndarray) or values.size != shape[axis] * size:
            raise ConversionError(
                f"{table.name} is not {shape[axis]} positions of width {size}: axial_shape and "
                "axial_sizes of the configuration must be those of the weights"
            )
        flat = torch.from_numpy(values.astype(np.float32)).reshape(shape[axis], size)
        yield f"reformer.embedding.positions.tables.{axis}", flat
    layers = weights[5]
    if len(layers) != 4 * len(config.layers):
        raise ConversionError(
            f"the weights have {len(layers) / 4:g} layers, the configuration {len(config.layers)}"
        )
    for index, layer in enumerate(config.layers):
        kind = ("query_key",) if isinstance(layer, LSH) else ("query", "key")
        block = f"reformer.blocks.{index}"
        yield from _attention(layers[4 * index], f"{block}.attention", (*kind, "value"))
        yield from _feed_forward(layers[4 * index + 2], block)
    yield from _affine(weights[7], "reformer.norm")
    yield "head.weight", weights[9][0].matrix()
    yield "head.bias", weights[9][1].tensor(1)


def _attention(half: _Nest, name: str, kinds: tuple[str, ...]) -> Iterator[tuple[str, Tensor]]:
    yield from _affine(half[0][0], f"{name}_norm")
    projections = half[1]
    if len(projections) != len(kinds) + 1:
        raise ConversionError(
            f"{projections.name} has {len(projections)} matrices; an LSH layer has 3, a local "
            "one 4: check the order of the configuration's layers"
        )
    for index, kind in enumerate(kinds):
        per_head = projections[index].tensor(3)  # [H, D, K]
        yield f"{name}.{kind}.weight", per_head.transpose(1, 2).flatten(0, 1).contiguous()
    yield f"{name}.output.weight", projections[len(kinds)].tensor(3).flatten(0, 1).T.contiguous()


def _feed_forward(half: _Nest, block: str) -> Iterator[tuple[str, Tensor]]:
    layers = half[0][1][2]
    if len(layers) == 4:  # wrapped for computing in chunks
        layers = layers[2]
    yield from _affine(layers[0], f"{block}.feed_forward_norm")
    for index, name in ((1, "inner"), (4, "output")):
        yield f"{block}.feed_forward.{name}.weight", layers[index][0].matrix()
        yield f"{block}.feed_forward.{name}.bias", layers[index][1].tensor(1)


def _affine(norm: _Nest, name: str) -> Iterator[tuple[str, Tensor]]:
    yield f"{name}.weight", norm[0].tensor(1)
    yield f"{name}.bias", norm[1].tensor(1)

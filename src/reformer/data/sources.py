"""Training sequences by number: sequence n is a pure function of (seed, n).

A step that uses the sequences first … first + count - 1 can therefore be repeated, or taken
up by another number of processes, from the step's number alone.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from reformer.data.files import InputError
from reformer.data.store import TokenStore
from reformer.ops.randomness import derive_seed, generator
from reformer.ops.sliced import IGNORED_LABEL

Batch = Mapping[str, Tensor]
"""The arguments of the model's forward pass, such as input_ids int64 [B, L] and labels; the
first dimension of each counts the sequences."""


@dataclass(frozen=True)
class LossUnit:
    """What a loss is shown in: its name, and how much of it one nat is."""

    name: str
    per_nat: float = 1.0


NATS = LossUnit("loss")


def bits_per_byte(bytes_per_token: float) -> LossUnit:
    """For a mean loss over tokens behind which there are so many bytes on average."""
    return LossUnit("bits_per_byte", 1.0 / (math.log(2.0) * bytes_per_token))


class Source(Protocol):
    """Where training sequences come from."""

    @property
    def unit(self) -> LossUnit:
        """What the training loss is shown in."""
        ...

    def batch(self, first: int, count: int) -> Batch:
        """Sequences number first to first + count - 1."""
        ...


class TextSource:
    """Windows of ``length`` tokens at random offsets of a token store."""

    def __init__(self, store: TokenStore, length: int, seed: int) -> None:
        if len(store) < length:
            raise InputError(
                f"length is {length}, but the text has {len(store)} tokens to train on: "
                "give more text or a shorter length"
            )
        self.store = store
        self.length = length
        self.seed = seed
        self.unit = bits_per_byte(store.num_bytes / len(store))

    def batch(self, first: int, count: int) -> Batch:
        num_offsets = len(self.store) - self.length + 1
        rows = []
        for number in range(first, first + count):
            offset = derive_seed(self.seed, number) % num_offsets
            rows.append(self.store.tokens[offset : offset + self.length])
        input_ids = torch.from_numpy(np.stack(rows).astype(np.int64))
        return {"input_ids": input_ids, "labels": input_ids}


class CopySource:
    """The duplication task (paper, section 5): 0 w 0 w, with w drawn from 1 … vocab_size - 1.

    Only the second w is labelled: the first one cannot be predicted.
    """

    unit = bits_per_byte(1.0)

    def __init__(self, length: int, vocab_size: int, seed: int) -> None:
        if length < 4 or length % 2:
            raise InputError(f"length is {length}: the copy task needs an even length from 4 up")
        if vocab_size < 3:
            raise InputError(f"vocab_size is {vocab_size}: the copy task needs at least 3")
        self.length = length
        self.vocab_size = vocab_size
        self.seed = seed

    def batch(self, first: int, count: int) -> Batch:
        half = self.length // 2
        words = torch.zeros(count, half, dtype=torch.int64)
        for row in range(count):
            words[row, 1:] = torch.randint(
                1, self.vocab_size, (half - 1,), generator=generator(self.seed, first + row)
            )
        input_ids = torch.cat([words, words], dim=1)
        labels = input_ids.clone()
        labels[:, : half + 1] = IGNORED_LABEL
        return {"input_ids": input_ids, "labels": labels}

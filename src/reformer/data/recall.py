"""Recalling values by their keys from anywhere in a long sequence of filler.

    … f f k2 v2 f f f k1 v1 f f … k1 v1 k2 v2 …

Each sequence hides ``num_pairs`` pairs of a key and a value at random places among filler, and
ends with a quiz: every key again, in random order, its value to be predicted. A pair may stand
anywhere before the quiz, so the distance to be bridged grows with the sequence. Filler follows
Zipf's law, as words do.
"""

import torch
from torch import Tensor

from reformer.data.files import InputError
from reformer.data.sources import NATS, Batch
from reformer.ops.randomness import generator
from reformer.ops.sliced import IGNORED_LABEL

VOCAB_SIZE = 256
NUM_FILLERS = 128
"""Ids 0 … 127 are filler, the next 64 are keys, the last 64 values."""
NUM_KEYS = NUM_VALUES = 64


class RecallSource:
    """Sequences by number; only the values in the quiz are labelled."""

    unit = NATS

    def __init__(self, length: int, seed: int, num_pairs: int = 16) -> None:
        if not 1 <= num_pairs <= NUM_KEYS:
            raise InputError(f"num_pairs is {num_pairs}: it must be from 1 to {NUM_KEYS}")
        if length < 4 * num_pairs:
            raise InputError(
                f"length is {length}: {num_pairs} pairs and their quiz need {4 * num_pairs}"
            )
        self.length = length
        self.seed = seed
        self.num_pairs = num_pairs

    def batch(self, first: int, count: int) -> Batch:
        rows = [self._sequence(number) for number in range(first, first + count)]
        input_ids = torch.stack(rows)
        labels = torch.full_like(input_ids, IGNORED_LABEL)
        quiz = slice(self.length - 2 * self.num_pairs + 1, None, 2)
        labels[:, quiz] = input_ids[:, quiz]
        return {"input_ids": input_ids, "labels": labels}

    def _sequence(self, number: int) -> Tensor:
        rng = generator(self.seed, number)
        pairs = self.num_pairs
        keys = NUM_FILLERS + torch.randperm(NUM_KEYS, generator=rng)[:pairs]
        values = torch.randint(NUM_VALUES, (pairs,), generator=rng) + NUM_FILLERS + NUM_KEYS
        body = self.length - 2 * pairs
        frequencies = 1.0 / torch.arange(1, NUM_FILLERS + 1, dtype=torch.float64)
        ids = torch.multinomial(frequencies, self.length, replacement=True, generator=rng)
        # Distinct even places keep the pairs apart.
        places = 2 * torch.randperm(body // 2, generator=rng)[:pairs]
        ids[places], ids[places + 1] = keys, values
        asked = torch.randperm(pairs, generator=rng)
        ids[body::2], ids[body + 1 :: 2] = keys[asked], values[asked]
        return ids

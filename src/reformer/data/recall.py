"""Needles in a long sequence of filler, and questions about them at its end.

    f f n3 f f f n1 f n2 f …  q2 n2 q1 n1 q3 n3

Each sequence hides one needle of every class at random places. A needle is one token that says
its class and its value; a question is the token of a class, and its answer the needle of that
class, to be predicted. Needles may stand anywhere before the questions, so the distance to be
bridged grows with the sequence. Filler follows Zipf's law, as words do.
"""

import torch
from torch import Tensor

from reformer.data.files import InputError
from reformer.data.sources import NATS, Batch
from reformer.ops.randomness import generator
from reformer.ops.sliced import IGNORED_LABEL

NUM_FILLERS = 64
"""Ids 0 … 63 are filler, then come the questions, then the needles."""
NUM_CLASSES = NUM_VALUES = 8
VOCAB_SIZE = NUM_FILLERS + NUM_CLASSES + NUM_CLASSES * NUM_VALUES


class RecallSource:
    """Sequences by number; only the answers are labelled."""

    unit = NATS

    def __init__(self, length: int, seed: int) -> None:
        if length < 3 * NUM_CLASSES:
            raise InputError(
                f"length is {length}: {NUM_CLASSES} needles and their questions need "
                f"{3 * NUM_CLASSES}"
            )
        self.length = length
        self.seed = seed

    def batch(self, first: int, count: int) -> Batch:
        input_ids = torch.stack([self._sequence(n) for n in range(first, first + count)])
        labels = torch.full_like(input_ids, IGNORED_LABEL)
        answers = slice(self.length - 2 * NUM_CLASSES + 1, None, 2)
        labels[:, answers] = input_ids[:, answers]
        return {"input_ids": input_ids, "labels": labels}

    def _sequence(self, number: int) -> Tensor:
        rng = generator(self.seed, number)
        body = self.length - 2 * NUM_CLASSES
        frequencies = 1.0 / torch.arange(1, NUM_FILLERS + 1, dtype=torch.float64)
        ids = torch.multinomial(frequencies, self.length, replacement=True, generator=rng)
        values = torch.randint(NUM_VALUES, (NUM_CLASSES,), generator=rng)
        needles = NUM_FILLERS + NUM_CLASSES + NUM_VALUES * torch.arange(NUM_CLASSES) + values
        ids[torch.randperm(body, generator=rng)[:NUM_CLASSES]] = needles
        asked = torch.randperm(NUM_CLASSES, generator=rng)
        ids[body::2], ids[body + 1 :: 2] = NUM_FILLERS + asked, needles[asked]
        return ids

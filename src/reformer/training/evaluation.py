"""How well a model does: bits per byte of text, accuracy on the copy task."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from reformer.data.sources import CopySource
from reformer.data.store import TokenStore
from reformer.models.language import ReformerForCausalLM
from reformer.ops.sliced import IGNORED_LABEL

_TOKENS_PER_PASS = 8192

Pause = Callable[[], None]
"""Called between forward passes; whatever it raises ends the evaluation."""


def no_pause() -> None:
    """Go on at once."""


@dataclass(frozen=True)
class TextScore:
    """Total cost of a text in nats, and its size."""

    nats: float
    num_tokens: int
    num_bytes: int

    @property
    def bits_per_byte(self) -> float:
        """Bits that the model needs for each byte of the original text."""
        return self.nats / math.log(2.0) / self.num_bytes

    @property
    def perplexity(self) -> float:
        """exp of the mean cost of a token."""
        return math.exp(min(self.nats / self.num_tokens, 700.0))

    def __add__(self, other: "TextScore") -> "TextScore":
        return TextScore(
            self.nats + other.nats,
            self.num_tokens + other.num_tokens,
            self.num_bytes + other.num_bytes,
        )


def score_text(
    model: ReformerForCausalLM,
    store: TokenStore,
    *,
    length: int | None = None,
    pause: Pause = no_pause,
) -> TextScore:
    """The cost of a whole text, in windows of ``length`` tokens (default: max_length).

    Windows overlap by half: every token after the first window is predicted from at least
    length // 2 tokens. The very first token costs log(vocab_size): nothing is known then.
    """
    length = length or model.config.max_length
    num_tokens = len(store)
    nats = math.log(model.config.vocab_size)
    if length == 1:
        return TextScore(nats * num_tokens, num_tokens, store.num_bytes)
    for input_ids, labels in _passes(store, length):
        pause()
        nats += total_cost(model, input_ids, labels)
    return TextScore(nats, num_tokens, store.num_bytes)


def windows(num_tokens: int, length: int) -> Iterator[tuple[int, int, int]]:
    """(start, first scored, end) of each window; every token but the first is scored once."""
    end = min(length, num_tokens)
    if num_tokens > 1:
        yield 0, 1, end
    while end < num_tokens:
        scored, end = end, min(end + length // 2, num_tokens)
        yield end - length, scored, end


def _passes(store: TokenStore, length: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Windows stacked into batches: input_ids and labels [B, length]."""
    rows: list[tuple[Tensor, Tensor]] = []
    for start, scored, end in windows(len(store), length):
        input_ids = torch.from_numpy(np.asarray(store.tokens[start:end]).astype(np.int64))
        labels = input_ids.clone()
        labels[: scored - start] = IGNORED_LABEL
        rows.append((input_ids, labels))
        if len(rows) * length >= _TOKENS_PER_PASS:
            yield _stack(rows)
            rows = []
    if rows:
        yield _stack(rows)


def _stack(rows: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return torch.stack([row[0] for row in rows]), torch.stack([row[1] for row in rows])


def total_cost(model: ReformerForCausalLM, input_ids: Tensor, labels: Tensor) -> float:
    """Total nats of the labelled tokens."""
    device = next(model.parameters()).device
    with _evaluating(model):
        loss = model(input_ids.to(device), labels=labels.to(device)).loss
    return float(loss) * int((labels[:, 1:] != IGNORED_LABEL).sum())


@contextmanager
def _evaluating(model: ReformerForCausalLM) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


class Validation(Protocol):
    """What a training run is judged by."""

    def measure(
        self, model: ReformerForCausalLM, *, whole: bool, pause: Pause = no_pause
    ) -> dict[str, float]:
        """Metrics by name, ``validation_bits_per_byte`` among them; a fixed part, or all."""
        ...


class TextValidation:
    """Bits per byte of a token store; of its first ``part_tokens`` tokens on the way."""

    def __init__(self, store: TokenStore, part_tokens: int) -> None:
        self.store = store
        share = min(1.0, part_tokens / len(store))
        self.part = TokenStore(store.tokens[:part_tokens], round(store.num_bytes * share))

    def measure(
        self, model: ReformerForCausalLM, *, whole: bool, pause: Pause = no_pause
    ) -> dict[str, float]:
        score = score_text(model, self.store if whole else self.part, pause=pause)
        return {"validation_bits_per_byte": score.bits_per_byte}


class CopyValidation:
    """Loss and accuracy on the second half of copy sequences that training never sees."""

    def __init__(self, source: CopySource, num_sequences: int) -> None:
        self.source = source
        self.num_sequences = num_sequences

    def measure(
        self, model: ReformerForCausalLM, *, whole: bool, pause: Pause = no_pause
    ) -> dict[str, float]:
        count = self.num_sequences if whole else max(1, self.num_sequences // 4)
        nats = correct = total = 0.0
        for number in range(count):
            pause()
            input_ids, labels = self.source.batch(number, 1)
            nats += total_cost(model, input_ids, labels)
            hits, counted = _count_correct(model, input_ids, labels)
            correct, total = correct + hits, total + counted
        return {
            "validation_bits_per_byte": nats / math.log(2.0) / total,
            "validation_accuracy": correct / total,
        }


def _count_correct(
    model: ReformerForCausalLM, input_ids: Tensor, labels: Tensor
) -> tuple[int, int]:
    device = next(model.parameters()).device
    with _evaluating(model):
        predicted = model(input_ids.to(device)).logits.argmax(dim=-1).cpu()
    counted = labels[:, 1:] != IGNORED_LABEL
    correct = (predicted[:, :-1] == labels[:, 1:]) & counted
    return int(correct.sum()), int(counted.sum())

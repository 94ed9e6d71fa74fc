"""How well a model does: bits per byte of text."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

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
    with evaluating(model):
        loss = model(input_ids.to(device), labels=labels.to(device)).loss
    return float(loss) * int((labels[:, 1:] != IGNORED_LABEL).sum())


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, without gradients; the mode before comes back at the end."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


class Validation(Protocol):
    """What a training run is judged by."""

    def measure(self, model: Any, *, whole: bool, pause: Pause = no_pause) -> dict[str, Any]:
        """Metrics by names that begin with ``validation_``; on a fixed part, or on all.

        They are numbers; on all, also tables of counts, as dicts of dicts.
        """
        ...

    def cost(self, metrics: Mapping[str, float]) -> float:
        """The one number by which weights are chosen; lower is better."""
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

    def cost(self, metrics: Mapping[str, float]) -> float:
        return metrics["validation_bits_per_byte"]

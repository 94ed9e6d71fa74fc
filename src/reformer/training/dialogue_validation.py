"""How well a model speaks the assistant's part of conversations that it has not seen."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from reformer.data.chat_template import ChatEncoder
from reformer.data.dialogues import assistant_labels
from reformer.data.store import TokenStore
from reformer.models.language import ReformerForCausalLM
from reformer.ops.sliced import IGNORED_LABEL
from reformer.training.evaluation import Pause, no_pause, total_cost, windows

_ROWS_PER_PASS = 4


class DialogueValidation:
    """Bits per byte of the assistant's turns; on the way, of the first conversations only.

    Each conversation is scored by itself, in windows that overlap by half when it is longer
    than the model. The turn's end marker counts as one byte.
    """

    def __init__(self, store: TokenStore, part_tokens: int, encoder: ChatEncoder) -> None:
        self.store, self.part_tokens, self.encoder = store, part_tokens, encoder
        starts = np.flatnonzero(store.tokens == encoder.markers["start"])
        self._bounds = [*starts.tolist(), len(store)]

    def measure(
        self, model: ReformerForCausalLM, *, whole: bool, pause: Pause = no_pause
    ) -> dict[str, float]:
        nats, num_bytes = 0.0, 0
        rows: list[tuple[Tensor, Tensor]] = []
        for start, end in zip(self._bounds, self._bounds[1:], strict=False):
            if not whole and start > 0 and end > self.part_tokens:
                break
            tokens = np.asarray(self.store.tokens[start:end], dtype=np.int64)
            labels = assistant_labels(tokens, self.encoder.markers)
            num_bytes += self._count_bytes(labels[labels != IGNORED_LABEL].tolist())
            rows += _windows(tokens, labels, model.config.max_length)
            while len(rows) >= _ROWS_PER_PASS:
                pause()
                nats += _cost(model, rows[:_ROWS_PER_PASS])
                del rows[:_ROWS_PER_PASS]
        nats += _cost(model, rows) if rows else 0.0
        return {"validation_bits_per_byte": nats / math.log(2.0) / max(1, num_bytes)}

    def _count_bytes(self, ids: list[int]) -> int:
        decoder = self.encoder.tokenizer.decoder()
        pieces = [decoder.feed(token_id) for token_id in ids]
        return len("".join([*pieces, decoder.finish()]).encode("utf-8", errors="replace"))


def _windows(
    tokens: np.ndarray, labels: np.ndarray, length: int
) -> Iterator[tuple[Tensor, Tensor]]:
    for start, scored, end in windows(len(tokens), length):
        part = labels[start:end].copy()
        part[: scored - start] = IGNORED_LABEL
        yield torch.from_numpy(tokens[start:end]), torch.from_numpy(part)


def _cost(model: ReformerForCausalLM, rows: list[tuple[Tensor, Tensor]]) -> float:
    """Total nats. Shorter rows are filled up at their end, which no earlier token sees."""
    longest = max(len(ids) for ids, _ in rows)
    input_ids = torch.zeros(len(rows), longest, dtype=torch.int64)
    labels = torch.full_like(input_ids, IGNORED_LABEL)
    for row, (ids, wanted) in enumerate(rows):
        input_ids[row, : len(ids)] = ids
        labels[row, : len(ids)] = wanted
    return total_cost(model, input_ids, labels)

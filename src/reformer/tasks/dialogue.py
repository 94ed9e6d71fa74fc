"""Conversations: what the assistant says, after all that was said before."""

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reformer.data.chat_template import ChatEncoder, chat_encoder
from reformer.data.dialogues import (
    DialogueSource,
    assistant_labels,
    prepare_dialogues,
    write_dialogues,
)
from reformer.data.files import InputError, find_files
from reformer.data.store import TokenStore, open_store
from reformer.models.language import ReformerForCausalLM
from reformer.ops.sliced import IGNORED_LABEL
from reformer.training.evaluation import Pause, no_pause, total_cost, windows
from reformer.training.planner import format_bytes
from reformer.training.run import Run, require_vocabulary
from reformer.training.task import Task, TaskKind

_ROWS_PER_PASS = 4


class DialogueTask(TaskKind):
    """JSON lines of conversations; the loss counts the assistant's part of them."""

    model = ReformerForCausalLM

    def inputs(self, given: tuple[str, ...]) -> tuple[str, ...]:
        if not given:
            raise InputError(
                "the dialogue task learns conversations: name a file with one "
                '{"messages": […]} a line'
            )
        return given

    def prepare(self, run: Run, *, length_fixed: bool, say: Callable[[str], None]) -> Task:
        description, config = run.description, run.description.config
        encoder = _encoder(run)
        require_vocabulary(encoder.tokenizer, config.vocab_size)
        corpus = prepare_dialogues(
            run.data, description.inputs, description.validation, encoder, config.vocab_size
        )
        return Task(
            self.model,
            DialogueSource(corpus.train, config.max_length, config.seed, encoder),
            self.validation(run),
            f"{format_bytes(corpus.train.num_bytes)} of conversations, "
            f"{len(corpus.train):,} tokens",
        )

    def validation(self, run: Run) -> "DialogueValidation":
        part_tokens = run.description.settings.evaluate_tokens
        return DialogueValidation(open_store(run.data, "validation"), part_tokens, _encoder(run))

    def validation_on(self, run: Run, inputs: Sequence[str]) -> "DialogueValidation":
        encoder, vocab_size = _encoder(run), run.description.config.vocab_size
        with tempfile.TemporaryDirectory() as folder:
            files = find_files(inputs)
            store = write_dialogues(Path(folder), "given", files, encoder, vocab_size)
            tokens = TokenStore(np.array(store.tokens), store.num_bytes)
        return DialogueValidation(tokens, len(tokens), encoder)


def _encoder(run: Run) -> ChatEncoder:
    return chat_encoder(run.chat_template(), run.tokenizer())


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

    def cost(self, metrics: Mapping[str, float]) -> float:
        return metrics["validation_bits_per_byte"]

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


TASK = DialogueTask()

"""Masked language modelling: hidden spans of a text from what stands around them.

For models that read both ways: what they learn from any text, ``--init`` hands on to the tasks
that need labels.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from reformer.config import ReformerConfig
from reformer.data.corpus import prepare_corpus
from reformer.data.files import InputError, count_bytes, find_files, read_files, shipped_novel
from reformer.data.masking import MaskedSource, mask_spans
from reformer.data.store import TokenStore, open_store
from reformer.models.masked_language import ReformerForMaskedLM
from reformer.ops.randomness import derive_seed
from reformer.ops.sliced import IGNORED_LABEL
from reformer.training.evaluation import Pause, evaluating, no_pause
from reformer.training.planner import format_bytes
from reformer.training.run import Run, require_vocabulary
from reformer.training.task import Task, TaskKind, shortened

_HELD_OUT = 2
"""Names the spans that are hidden in validation."""


class MaskedTask(TaskKind):
    """Files, end to end; without any, the novel that comes with the package."""

    model = ReformerForMaskedLM

    def inputs(self, given: tuple[str, ...]) -> tuple[str, ...]:
        return given or (str(shipped_novel()),)

    def config(self, config: ReformerConfig) -> ReformerConfig:
        return replace(config.seeing_both_sides(), labels=None)

    def prepare(self, run: Run, *, length_fixed: bool, say: Callable[[str], None]) -> Task | Run:
        description, config = run.description, run.description.config
        tokenizer = run.tokenizer()
        require_vocabulary(tokenizer, config.vocab_size)
        corpus = prepare_corpus(
            run.data, description.inputs, description.validation, tokenizer, config.vocab_size
        )
        num_tokens = len(corpus.train)
        if shorter := shortened(run, num_tokens, length_fixed=length_fixed, say=say):
            return shorter
        return Task(
            self.model,
            MaskedSource(corpus.train, config.max_length, config.seed),
            self.validation(run),
            f"{format_bytes(corpus.train.num_bytes)} of text, {num_tokens:,} tokens "
            f"from a vocabulary of {config.vocab_size:,}",
        )

    def validation(self, run: Run) -> "MaskedValidation":
        part_tokens = run.description.settings.evaluate_tokens
        return MaskedValidation(open_store(run.data, "validation"), part_tokens)

    def validation_on(self, run: Run, inputs: Sequence[str]) -> "MaskedValidation":
        files = find_files(inputs)
        num_bytes = count_bytes(files)
        blocks = list(run.tokenizer().encode(read_files(files)))
        return MaskedValidation(TokenStore(np.concatenate(blocks), num_bytes), 1)


class MaskedValidation:
    """Bits per hidden byte, and the share of hidden tokens that are named right.

    What is hidden is fixed by the place in the text, so that every model has the same to find.
    """

    def __init__(self, store: TokenStore, part_tokens: int) -> None:
        if len(store) == 0:
            raise InputError("the files hold no text")
        self.store, self.part_tokens = store, part_tokens

    def measure(
        self, model: ReformerForMaskedLM, *, whole: bool, pause: Pause = no_pause
    ) -> dict[str, float]:
        length, device = model.config.max_length, next(model.parameters()).device
        end = len(self.store) if whole else min(len(self.store), self.part_tokens)
        nats, hits, total = 0.0, 0, 0
        for start in range(0, end, length):
            pause()
            tokens = np.asarray(self.store.tokens[start : start + length]).astype(np.int64)
            hidden, labels = mask_spans(tokens, derive_seed(_HELD_OUT, start))
            with evaluating(model):
                logits = model(torch.from_numpy(hidden)[None].to(device)).logits[0].float().cpu()
            places = np.flatnonzero(labels != IGNORED_LABEL)
            wanted, chances = torch.from_numpy(labels[places]), logits[places].log_softmax(-1)
            nats -= float(chances.gather(1, wanted[:, None]).double().sum())
            hits += int((chances.argmax(-1) == wanted).sum())
            total += len(places)
        bytes_per_token = self.store.num_bytes / len(self.store)
        return {
            "validation_bits_per_byte": nats / math.log(2.0) / (total * bytes_per_token),
            "validation_accuracy": hits / total,
        }

    def cost(self, metrics: Mapping[str, float]) -> float:
        return metrics["validation_bits_per_byte"]


TASK = MaskedTask()

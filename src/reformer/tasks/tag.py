"""Token classification: a tag for every word, such as names in sentences."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from reformer.config import Labels, ReformerConfig
from reformer.data.files import InputError, find_files
from reformer.data.records import has_records
from reformer.data.rows import in_batches, pad_batch
from reformer.data.tagged import (
    Sentence,
    TaggedRow,
    TaggedSource,
    keep_tagged,
    kept_tagged,
    known_tags,
    read_tagged,
    tag_labels,
    tagged_rows,
)
from reformer.data.tokenizer import ByteTokenizer, JsonTokenizer, tokenizer_in
from reformer.models.token_classification import ReformerForTokenClassification
from reformer.training.evaluation import Pause, evaluating, no_pause
from reformer.training.run import Run, require_vocabulary
from reformer.training.scores import accuracy, confusion_matrix, macro_f1, span_f1
from reformer.training.task import Task, TaskKind

_VALIDATION_PART = 10
"""Without a validation file, the last of so many sentences are kept for validation."""
_TOKENS_PER_PASS = 16384


class TagTask(TaskKind):
    """CoNLL's columns, or JSON lines of tokens and tags."""

    model = ReformerForTokenClassification

    def inputs(self, given: tuple[str, ...]) -> tuple[str, ...]:
        if not given:
            raise InputError(
                "the tag task learns tags of words: name a file in CoNLL's format, or .jsonl with "
                '{"tokens": […], "tags": […]} a line'
            )
        return given

    def config(self, config: ReformerConfig) -> ReformerConfig:
        return config.seeing_both_sides()

    def prepare(self, run: Run, *, length_fixed: bool, say: Callable[[str], None]) -> Task | Run:
        description, config = run.description, run.description.config
        tokenizer = tokenizer_in(run.path)
        require_vocabulary(tokenizer, config.vocab_size)
        _keep(run, tokenizer)
        sentences = kept_tagged(run.data, "train")
        labels = tag_labels(sentences)
        if config.labels != labels:
            return run.describe(replace(description, config=replace(config, labels=labels)))
        return Task(
            self.model,
            TaggedSource(sentences, labels, tokenizer, config.max_length, config.seed),
            self.validation(run),
            f"{len(sentences):,} sentences, {sum(len(s.words) for s in sentences):,} words, "
            f"{labels.num_labels} tags",
        )

    def validation(self, run: Run) -> "TagValidation":
        return _validation(run, kept_tagged(run.data, "validation"))

    def validation_on(self, run: Run, inputs: Sequence[str]) -> "TagValidation":
        return _validation(run, read_tagged(find_files(inputs)))


def _keep(run: Run, tokenizer: ByteTokenizer | JsonTokenizer) -> None:
    """Read the run's inputs into its data folder, unless that has been done."""
    if has_records(run.data, "train", "validation"):
        return
    description = run.description
    sentences = read_tagged(find_files(description.inputs))
    if description.validation is not None:
        held_out = read_tagged(find_files([description.validation]))
    else:
        cut = len(sentences) - max(1, len(sentences) // _VALIDATION_PART)
        sentences, held_out = sentences[:cut], sentences[cut:]
    if not sentences:
        raise InputError(
            f"{held_out[0].place}: it is the only sentence: one is needed to train on and one to "
            "validate on"
        )
    known_tags(held_out, tag_labels(sentences))
    for sentence in (*sentences, *held_out):  # what does not fit is named by the user's file
        tagged_rows(sentence, tokenizer, description.config.max_length)
    keep_tagged(run.data, "train", sentences)
    keep_tagged(run.data, "validation", held_out)


def _validation(run: Run, sentences: Sequence[Sentence]) -> "TagValidation":
    config, settings = run.description.config, run.description.settings
    classes = known_tags(sentences, config.labels or Labels())
    tokenizer = tokenizer_in(run.path)
    rows = [row for s in sentences for row in tagged_rows(s, tokenizer, config.max_length)]
    return TagValidation(rows, classes, settings.evaluate_tokens)


class TagValidation:
    """Accuracy and macro F1 over words; F1 of whole spans where tags are B-…, I-… and O.

    A word's tag is the likeliest by the mean of its tokens' logits. On the way, of as many rows as
    have ``part_tokens`` tokens; at the end, the confusion matrix too.
    """

    def __init__(
        self, rows: Sequence[TaggedRow], classes: Mapping[str, int], part_tokens: int
    ) -> None:
        self.rows, self.classes = rows, classes
        self._stride = max(1, round(sum(len(row) for row in rows) / part_tokens))

    def measure(
        self, model: ReformerForTokenClassification, *, whole: bool, pause: Pause = no_pause
    ) -> dict[str, Any]:
        rows = self.rows if whole else self.rows[:: self._stride]
        predicted: list[list[int]] = []
        for batch in in_batches(rows, _TOKENS_PER_PASS):
            pause()
            predicted += _word_classes(model, batch)
        wanted = [[self.classes[tag] for tag in row.tags] for row in rows]
        names = list(self.classes)
        confusion = confusion_matrix(np.concatenate(wanted), np.concatenate(predicted), len(names))
        metrics: dict[str, Any] = {
            "validation_accuracy": accuracy(confusion),
            "validation_macro_f1": macro_f1(
                np.diag(confusion), confusion.sum(axis=0), confusion.sum(axis=1)
            ),
        }
        if any(name.startswith("B-") for name in names):
            tags = [[[names[i] for i in row] for row in side] for side in (wanted, predicted)]
            metrics["validation_span_f1"] = span_f1(*tags)
        if whole:
            metrics["validation_confusion_matrix"] = {
                name: dict(zip(names, row, strict=True))
                for name, row in zip(names, confusion.tolist(), strict=True)
            }
        return metrics

    def cost(self, metrics: Mapping[str, Any]) -> float:
        return -float(metrics.get("validation_span_f1", 0.0)) - metrics["validation_accuracy"]


def _word_classes(
    model: ReformerForTokenClassification, rows: Sequence[TaggedRow]
) -> list[list[int]]:
    device = next(model.parameters()).device
    tensors = pad_batch([row.input_ids for row in rows])
    with evaluating(model):
        logits = model(**{k: v.to(device) for k, v in tensors.items()}).logits.float().cpu()
    classes = []
    for row, scores in zip(rows, logits, strict=True):
        totals = torch.zeros(len(row.tags), scores.shape[1])
        totals.index_add_(0, torch.from_numpy(row.words), scores[: len(row)])
        classes.append(totals.argmax(-1).tolist())
    return classes


TASK = TagTask()

"""Classification of whole texts: one class, several labels, or numbers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from reformer.config import Labels, ReformerConfig
from reformer.data.files import InputError, find_files
from reformer.data.labelled import LabelledSource, LabelledTexts, read_labelled, targets
from reformer.data.records import has_records
from reformer.data.rows import encode_text
from reformer.data.tokenizer import Tokenizer
from reformer.generation.classifying import label_logits
from reformer.models.classification import ReformerForSequenceClassification
from reformer.training.evaluation import Pause, evaluating, no_pause
from reformer.training.planner import format_bytes
from reformer.training.run import Run, require_vocabulary
from reformer.training.scores import accuracy, confusion_matrix, macro_f1
from reformer.training.task import Task, TaskKind

_VALIDATION_PART = 10
"""Without a validation file, one text in so many is kept for validation."""


class ClassifyTask(TaskKind):
    """CSV or JSON lines of texts and their labels."""

    model = ReformerForSequenceClassification

    def inputs(self, given: tuple[str, ...]) -> tuple[str, ...]:
        if not given:
            raise InputError(
                "the classify task learns labels of texts: name a .csv or .jsonl file whose "
                "records have a text and a label"
            )
        return given

    def config(self, config: ReformerConfig) -> ReformerConfig:
        return config.seeing_both_sides()

    def prepare(self, run: Run, *, length_fixed: bool, say: Callable[[str], None]) -> Task | Run:
        description, config = run.description, run.description.config
        tokenizer = run.tokenizer()
        require_vocabulary(tokenizer, config.vocab_size)
        _keep(run)
        texts = LabelledTexts.kept(run.data, "train")
        labels = texts.labels()
        if config.labels != labels:
            return run.describe(replace(description, config=replace(config, labels=labels)))
        num_bytes = sum(len(text.text.encode()) for text in texts.texts)
        what = "numbers" if labels.names is None else f"{labels.num_labels} labels"
        return Task(
            self.model,
            LabelledSource(texts, labels, tokenizer, config.max_length, config.seed),
            self.validation(run),
            f"{len(texts.texts):,} texts, {format_bytes(num_bytes)}, {what}",
        )

    def validation(self, run: Run) -> "LabelValidation":
        return _validation(run, LabelledTexts.kept(run.data, "validation"))

    def validation_on(self, run: Run, inputs: Sequence[str]) -> "LabelValidation":
        return _validation(run, read_labelled(find_files(inputs)))


def _keep(run: Run) -> None:
    """Read the run's inputs into its data folder, unless that has been done."""
    if has_records(run.data, "train", "validation"):
        return
    description = run.description
    texts = read_labelled(find_files(description.inputs))
    labels = texts.labels()
    if description.validation is not None:
        held_out = read_labelled(find_files([description.validation]))
        targets(held_out, labels)
    else:
        texts, held_out = texts.split(description.config.seed, _VALIDATION_PART)
    if not texts.texts:
        raise InputError(
            f"{held_out.texts[0].place}: it is the only text: one is needed to train on and one "
            "to validate on"
        )
    known = {name for text in texts.texts for name in text.label}
    if texts.problem != "regression":
        for text in held_out.texts:
            for name in text.label:
                if name not in known:
                    raise InputError(
                        f"{text.place}: the label {name!r} is on no text but those kept for "
                        "validation: give more texts with it, or a --validation file"
                    )
    texts.keep(run.data, "train")
    held_out.keep(run.data, "validation")


def _validation(run: Run, texts: LabelledTexts) -> "LabelValidation":
    labels = run.description.config.labels or Labels()
    part_tokens = run.description.settings.evaluate_tokens
    return LabelValidation(texts, labels, run.tokenizer(), part_tokens)


class LabelValidation:
    """What counts for each kind of label; on the way, of texts with ``part_tokens`` tokens.

    Classes: accuracy and macro F1, and at the end the confusion matrix. Several labels: macro F1,
    and the share of texts with all labels right as accuracy. Numbers: mean squared error, and the
    share of the variance that is explained (R^2).
    """

    def __init__(
        self, texts: LabelledTexts, labels: Labels, tokenizer: Tokenizer, part_tokens: int
    ) -> None:
        self.labels = labels
        self.targets = targets(texts, labels)
        self.rows = [encode_text(text.text, tokenizer) for text in texts.texts]
        total = sum(len(row) for row in self.rows)
        self._stride = max(1, round(total / part_tokens))

    def measure(
        self,
        model: ReformerForSequenceClassification,
        *,
        whole: bool,
        pause: Pause = no_pause,
    ) -> dict[str, Any]:
        stride = 1 if whole else self._stride
        with evaluating(model):
            logits = label_logits(model, self.rows[::stride], pause)
        wanted = self.targets[::stride]
        if self.labels.problem == "regression":
            return _errors_of_numbers(logits, wanted)
        if self.labels.problem == "multi_label":
            return _scores_of_sets(logits, wanted)
        classes = self.labels.num_labels
        confusion = confusion_matrix(wanted.numpy(), logits.argmax(-1).numpy(), classes)
        metrics: dict[str, Any] = {
            "validation_loss": float(functional.cross_entropy(logits, wanted)),
            "validation_accuracy": accuracy(confusion),
            "validation_macro_f1": macro_f1(
                np.diag(confusion), confusion.sum(axis=0), confusion.sum(axis=1)
            ),
        }
        if whole:
            names = self.labels.names or tuple(str(i) for i in range(classes))
            metrics["validation_confusion_matrix"] = {
                name: dict(zip(names, row, strict=True))
                for name, row in zip(names, confusion.tolist(), strict=True)
            }
        return metrics

    def cost(self, metrics: Mapping[str, Any]) -> float:
        return float(metrics["validation_loss"])


def _scores_of_sets(logits: Tensor, wanted: Tensor) -> dict[str, float]:
    predicted, right = (logits > 0).numpy(), (wanted > 0.5).numpy()
    counts = [x.sum(axis=0) for x in (predicted & right, predicted, right)]
    return {
        "validation_loss": float(functional.binary_cross_entropy_with_logits(logits, wanted)),
        "validation_accuracy": float((predicted == right).all(axis=1).mean()),
        "validation_macro_f1": macro_f1(*counts),
    }


def _errors_of_numbers(logits: Tensor, wanted: Tensor) -> dict[str, float]:
    error = float(functional.mse_loss(logits, wanted))
    variance = float(torch.var(wanted, dim=0, correction=0).mean())
    explained = 1.0 - error / variance if variance > 0 else 0.0
    return {"validation_loss": error, "validation_r2": explained}


TASK = ClassifyTask()
"""The task."""

"""Texts with labels, from CSV or JSON lines.

Each record has a ``text`` and one of: ``label``, the name of its class; ``labels``, the names of
all that hold, a list in JSON and separated by | in CSV; ``value``, a number, or in JSON a list.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reformer.config import Labels, Problem
from reformer.data.files import InputError
from reformer.data.records import Record, keep_records, kept_records, read_records
from reformer.data.rows import Row, encode_text, pad_batch, pick
from reformer.data.sources import NATS, Batch
from reformer.data.tokenizer import Tokenizer
from reformer.ops.randomness import derive_seed, generator

PROBLEMS: dict[str, Problem] = {
    "label": "single_label",
    "labels": "multi_label",
    "value": "regression",
}
"""The key that says what a file's records are labelled with."""

_PART = 1
"""Names the draws of parts of texts."""
_SPLIT = 2
"""Names the draw of what is kept for validation."""
_LARGEST = 1e15
"""A number whose square is still one in float32, as the loss needs."""

Label = tuple[str, ...] | tuple[float, ...]


@dataclass(frozen=True)
class LabelledText:
    """A text and its label: names of classes, or numbers."""

    text: str
    label: Label
    place: str = field(default="", compare=False)
    """The file and line that it is from, for sentences."""


@dataclass(frozen=True)
class LabelledTexts:
    """Texts that are labelled in one way."""

    problem: Problem
    texts: list[LabelledText]

    def keep(self, folder: Path, name: str) -> None:
        """Write them into a run's data folder."""
        key = next(key for key, problem in PROBLEMS.items() if problem == self.problem)
        one = key == "label"
        keep_records(
            folder,
            name,
            [{"text": t.text, key: t.label[0] if one else list(t.label)} for t in self.texts],
        )

    @classmethod
    def kept(cls, folder: Path, name: str) -> "LabelledTexts":
        """What ``keep`` wrote."""
        return _labelled(kept_records(folder, name))

    def split(self, seed: int, one_in: int) -> tuple["LabelledTexts", "LabelledTexts"]:
        """All but one in ``one_in`` of the texts, and these, drawn by ``seed``, in their order."""
        count = len(self.texts)
        order = torch.randperm(count, generator=generator(seed, _SPLIT)).tolist()
        held = set(order[: max(1, count // one_in)])
        parts = [
            [t for i, t in enumerate(self.texts) if (i in held) is out] for out in (False, True)
        ]
        return LabelledTexts(self.problem, parts[0]), LabelledTexts(self.problem, parts[1])

    def labels(self) -> Labels:
        """What a model of these texts predicts; InputError when they leave nothing to learn."""
        start = f"{self.texts[0].place} and on"
        if self.problem == "regression":
            if len({t.label for t in self.texts}) == 1:
                shown = ", ".join(f"{number:g}" for number in self.texts[0].label)
                raise InputError(f"{start}: all texts have the value {shown}: nothing to learn")
            size = len(self.texts[0].label)
            return Labels(size, self.problem, pooling="mean")
        names = tuple(sorted({str(name) for t in self.texts for name in t.label}))
        if len(names) < 2 and self.problem == "single_label":
            raise InputError(
                f"{start}: all texts have the label {names[0]!r}: a class needs another one"
            )
        if not names:
            raise InputError(f"{start}: no text has a label: there is nothing to learn")
        return Labels(len(names), self.problem, names, pooling="mean")


def read_labelled(files: Sequence[Path]) -> LabelledTexts:
    """The records of these files; InputError names the file and the line that is wrong."""
    records = list(read_records(files))
    if not records:
        names = ", ".join(str(file) for file in files[:3])
        raise InputError(f"{names} holds no labelled texts: each record needs a text and a label")
    return _labelled(records)


def _labelled(records: Sequence[Record]) -> LabelledTexts:
    key = _key(records[0])
    texts = []
    for record in records:
        if key not in record.fields:
            raise record.error(f"it has no {key!r}, which the records before it have")
        texts.append(LabelledText(record.text("text"), _label(record, key), record.place))
        if key == "value" and len(texts[-1].label) != len(texts[0].label):
            raise record.error(
                f"value holds {len(texts[-1].label)} numbers, and {len(texts[0].label)} before it"
            )
    return LabelledTexts(PROBLEMS[key], texts)


def _key(record: Record) -> str:
    found = [key for key in PROBLEMS if key in record.fields]
    if len(found) != 1:
        raise record.error(
            f"it has {' and '.join(found) or 'none'} of label, labels and value: it needs one"
        )
    return found[0]


def _label(record: Record, key: str) -> Label:
    value = record.fields[key]
    if key == "label":
        if isinstance(value, int):  # class ids are names too
            value = str(value)
        if not isinstance(value, str) or not value:
            raise record.error(f"label is {value!r}: it must be the name of a class")
        return (value,)
    if key == "labels":
        names = [name for name in value.split("|") if name] if isinstance(value, str) else value
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise record.error(f"labels is {value!r}: it must be a list of names")
        return tuple(names)
    values = value if isinstance(value, list) else [value]
    try:
        numbers = tuple(float(number) for number in values)
    except (TypeError, ValueError):
        numbers = ()
    if not numbers or not all(math.isfinite(number) for number in numbers):
        raise record.error(f"value is {value!r}: it must be a number")
    if max(map(abs, numbers)) > _LARGEST:
        raise record.error(f"value is {value!r}: scale the numbers to a few units around 0")
    return numbers


def targets(texts: LabelledTexts, labels: Labels) -> Tensor:
    """What the model must predict: int64 [N] of classes, or float32 [N, num_labels].

    InputError for a label that the model does not know.
    """
    if texts.problem != labels.problem:
        raise InputError(
            f"the texts are labelled for {texts.problem}, and the model learned {labels.problem}"
        )
    if texts.problem == "regression":
        sizes = {len(t.label) for t in texts.texts}
        if sizes != {labels.num_labels}:
            raise InputError(f"the texts have {sizes} values, and the model {labels.num_labels}")
        return torch.tensor([t.label for t in texts.texts], dtype=torch.float32)
    ids = {name: place for place, name in enumerate(labels.names or ())}
    for text in texts.texts:
        for name in text.label:
            if name not in ids:
                raise InputError(
                    f"{text.place}: the label {name!r} is not one that the model learned: "
                    + ", ".join(ids)
                )
    if texts.problem == "single_label":
        return torch.tensor([ids[str(t.label[0])] for t in texts.texts])
    wanted = np.zeros((len(texts.texts), labels.num_labels), np.float32)
    for row, text in enumerate(texts.texts):
        wanted[row, [ids[str(name)] for name in text.label]] = 1.0
    return torch.from_numpy(wanted)


class LabelledSource:
    """Texts and their targets; of a text longer than ``length``, random parts."""

    unit = NATS

    def __init__(
        self, texts: LabelledTexts, labels: Labels, tokenizer: Tokenizer, length: int, seed: int
    ) -> None:
        self.length, self.seed = length, seed
        self.targets = targets(texts, labels)
        self.rows: list[Row] = [encode_text(text.text, tokenizer) for text in texts.texts]

    def batch(self, first: int, count: int) -> Batch:
        numbers = range(first, first + count)
        chosen = [pick(number, len(self.rows), self.seed) for number in numbers]
        rows = [self._part(self.rows[i], n) for i, n in zip(chosen, numbers, strict=True)]
        return {**pad_batch(rows), "labels": self.targets[chosen]}

    def _part(self, row: Row, number: int) -> Row:
        spare = len(row) - self.length
        offset = derive_seed(self.seed, _PART, number) % (spare + 1) if spare > 0 else 0
        return row[offset : offset + self.length]

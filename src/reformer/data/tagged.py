"""Words with tags, such as names in sentences: CoNLL's columns, or JSON lines.

CoNLL: one word a line, the word in the first column and its tag in the last, sentences parted by
empty lines. JSON lines: {"tokens": ["Call", "me"], "tags": ["O", "O"]}.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from reformer.config import Labels
from reformer.data.files import InputError
from reformer.data.records import (
    Record,
    holds_records,
    keep_records,
    kept_records,
    read_records,
    read_text,
)
from reformer.data.rows import Row, pad_batch, pick, stack_rows
from reformer.data.sources import NATS, Batch
from reformer.data.tokenizer import ByteTokenizer, JsonTokenizer
from reformer.ops.sliced import IGNORED_LABEL


@dataclass(frozen=True)
class Sentence:
    """Words and the tag of each."""

    words: tuple[str, ...]
    tags: tuple[str, ...]
    place: str = field(default="", compare=False)
    """The file and line where it begins, for sentences about it."""


def read_tagged(files: Sequence[Path]) -> list[Sentence]:
    """The sentences of these files; InputError names the file and the line that is wrong."""
    sentences = []
    for file in files:
        if holds_records(file):
            sentences += [_from_record(record) for record in read_records([file])]
        else:
            sentences += list(_conll(file))
    if not sentences:
        raise InputError(f"{', '.join(str(file) for file in files[:3])} holds no tagged words")
    return sentences


def keep_tagged(folder: Path, name: str, sentences: Sequence[Sentence]) -> None:
    """Write sentences into a run's data folder."""
    keep_records(folder, name, [{"tokens": s.words, "tags": s.tags} for s in sentences])


def kept_tagged(folder: Path, name: str) -> list[Sentence]:
    """What ``keep_tagged`` wrote."""
    return [_from_record(record) for record in kept_records(folder, name)]


def tag_labels(sentences: Sequence[Sentence]) -> Labels:
    """What a model of these sentences predicts for each token."""
    names = tuple(sorted({tag for sentence in sentences for tag in sentence.tags}))
    if len(names) < 2:
        raise InputError(
            f"{sentences[0].place} and on: all words have the tag {names[0]!r}: there is nothing "
            "to tell apart"
        )
    return Labels(len(names), names=names)


def _from_record(record: Record) -> Sentence:
    lists: list[tuple[str, ...]] = []
    for key in ("tokens", "tags"):
        values = record.fields.get(key)
        if (
            not isinstance(values, list)
            or not values
            or not all(isinstance(v, str) and v for v in values)
        ):
            raise record.error(f"{key} must be a list of strings that are not empty")
        lists.append(tuple(values))
    if len(lists[0]) != len(lists[1]):
        raise record.error(f"it has {len(lists[0])} tokens and {len(lists[1])} tags")
    return Sentence(lists[0], lists[1], record.place)


def _conll(file: Path) -> Iterator[Sentence]:
    words: list[str] = []
    tags: list[str] = []
    place = ""
    for number, line in enumerate([*read_text(file).split("\n"), ""], start=1):
        columns = line.split()
        if columns and columns[0] != "-DOCSTART-":
            if len(columns) < 2:
                raise InputError(f"{file}, line {number}: it has a word and no tag: {line[:40]!r}")
            if not words:
                place = f"{file}, line {number}"
            words.append(columns[0])
            tags.append(columns[-1])
        elif words:
            yield Sentence(tuple(words), tuple(tags), place)
            words, tags = [], []


@dataclass(frozen=True)
class TaggedRow:
    """Token ids [L], and which word each is of, counted from the row's first word."""

    input_ids: Row
    words: Row
    tags: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.input_ids)


def tagged_rows(
    sentence: Sentence, tokenizer: ByteTokenizer | JsonTokenizer, length: int
) -> list[TaggedRow]:
    """A sentence's words with spaces between them, as tokens; a new row begins at the word that
    does not fit into ``length`` tokens. InputError for a word that fits no row."""
    tokens = tokenizer.places(" ".join(sentence.words))
    ends = np.cumsum([len(word) + 1 for word in sentence.words])
    # A token that begins with the space before a word is of that word: its last character counts.
    words = np.minimum(
        np.searchsorted(ends, tokens.ends - 1, side="right"), len(sentence.words) - 1
    )
    firsts = np.searchsorted(words, np.arange(len(sentence.words) + 1))
    rows, begin = [], 0
    for word in range(len(sentence.words)):
        if firsts[word + 1] - firsts[word] > length:
            raise InputError(
                f"{sentence.place}: the sentence's word {sentence.words[word][:40]!r} has more "
                f"tokens than the model's {length}"
            )
        if word + 1 == len(sentence.words) or firsts[word + 2] - firsts[begin] > length:
            part = slice(firsts[begin], firsts[word + 1])
            tags = sentence.tags[begin : word + 1]
            rows.append(TaggedRow(tokens.ids[part], words[part] - begin, tags))
            begin = word + 1
    return rows


def known_tags(sentences: Sequence[Sentence], labels: Labels) -> dict[str, int]:
    """Each tag's class; InputError for a tag that the labels do not have."""
    classes = {name: place for place, name in enumerate(labels.names or ())}
    for sentence in sentences:
        for tag in sentence.tags:
            if tag not in classes:
                raise InputError(
                    f"{sentence.place}: the sentence's tag {tag!r} is not one that the model "
                    f"learned: {', '.join(classes)}"
                )
    return classes


class TaggedSource:
    """Rows of tagged sentences; each token is labelled with its word's tag."""

    unit = NATS

    def __init__(
        self,
        sentences: Sequence[Sentence],
        labels: Labels,
        tokenizer: ByteTokenizer | JsonTokenizer,
        length: int,
        seed: int,
    ) -> None:
        self.classes = known_tags(sentences, labels)
        self.rows = [row for s in sentences for row in tagged_rows(s, tokenizer, length)]
        self.seed = seed

    def batch(self, first: int, count: int) -> Batch:
        numbers = range(first, first + count)
        rows = [self.rows[pick(number, len(self.rows), self.seed)] for number in numbers]
        labels = [np.array([self.classes[tag] for tag in row.tags])[row.words] for row in rows]
        batch = pad_batch([row.input_ids for row in rows])
        return {**batch, "labels": stack_rows(labels, IGNORED_LABEL)}

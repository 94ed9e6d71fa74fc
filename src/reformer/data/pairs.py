"""Pairs of texts: a source and what is to be written from it, such as its translation.

Tab-separated lines without a header, source TAB target, nothing quoted; or .jsonl and .csv with the
keys source and target.
"""

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from reformer.config import ReformerConfig
from reformer.data.files import InputError, ending_of
from reformer.data.records import Record, holds_records, read_records, read_text
from reformer.data.rows import Row, encode_text, pad_batch, stack_rows
from reformer.data.sources import Batch, bits_per_byte
from reformer.data.tokenizer import Tokenizer
from reformer.ops.randomness import generator
from reformer.ops.sliced import IGNORED_LABEL


def read_pairs(files: Sequence[Path]) -> list[Record]:
    """Records with a source and a target; InputError names the file and the line that is wrong."""
    pairs = []
    for file in files:
        if not holds_records(file):
            raise InputError(
                f"{file} must be .tsv (source TAB target), .jsonl or .csv (source, target), also "
                "with .gz, .xz or .zst"
            )
        for record in _lines(file) if ending_of(file) == ".tsv" else read_records([file]):
            texts = {name: record.text(name) for name in ("source", "target")}
            pairs.append(Record(texts, record.file, record.line))
    if not pairs:
        raise InputError(f"{', '.join(str(file) for file in files[:3])} holds no pairs")
    return pairs


def _lines(file: Path) -> Iterator[Record]:
    for number, line in enumerate(read_text(file).split("\n"), start=1):
        fields = line.removesuffix("\r").split("\t")
        if fields == [""]:
            continue
        if len(fields) != 2:
            raise InputError(
                f"{file}, line {number}: it has {len(fields)} fields between tabs: a source and a "
                "target are needed"
            )
        yield Record({"source": fields[0], "target": fields[1]}, file, number)


class PairRow(NamedTuple):
    """A source and a target as token ids, each ended by the model's mark."""

    source: Row
    target: Row


def marked_row(text: str, tokenizer: Tokenizer, config: ReformerConfig) -> Row:
    """The text's tokens and the mark, the last id of the vocabulary."""
    return np.append(encode_text(text, tokenizer), config.vocab_size - 1)


def pair_rows(
    pairs: Sequence[Record], tokenizer: Tokenizer, config: ReformerConfig
) -> list[PairRow]:
    """The pairs as tokens; InputError names the first text that is too long for the model."""
    rows = [
        PairRow(*(marked_row(pair.text(name), tokenizer, config) for name in PairRow._fields))
        for pair in pairs
    ]
    longest = max((len(part) for row in rows for part in row), default=0)
    for pair, row in zip(pairs, rows, strict=True):
        for name, part in zip(PairRow._fields, row, strict=True):
            if len(part) > config.max_length:
                raise pair.error(
                    f"the {name} has {len(part)} tokens with its end, the model's sequences "
                    f"{config.max_length}: shorten it, or train with --length {longest}, enough "
                    "for all of these"
                )
    return rows


def pair_batch(rows: Sequence[PairRow]) -> Batch:
    """Rows as the model's input."""
    targets = [row.target for row in rows]
    return {
        **pad_batch([row.source for row in rows]),
        "target_ids": stack_rows(targets),
        "labels": stack_rows(targets, IGNORED_LABEL),
    }


class PairSource:
    """Pairs in batches of nearly equal lengths, so that little is padding.

    An epoch is a shuffled order of all pairs (but for a few that fill no batch), sorted by length
    into batches of ``batch_size``, which come in a shuffled order.
    """

    def __init__(
        self, pairs: Sequence[Record], rows: list[PairRow], batch_size: int, seed: int
    ) -> None:
        self.rows, self.seed = rows, seed
        self._batch_size = min(batch_size, len(rows))
        num_bytes = sum(len(pair.text("target").encode(errors="replace")) for pair in pairs)
        self.unit = bits_per_byte(num_bytes / sum(len(row.target) for row in rows))
        self._lengths = torch.tensor([len(row.source) + len(row.target) for row in rows])
        self._order = functools.lru_cache(maxsize=4)(self._shuffled)

    def batch(self, first: int, count: int) -> Batch:
        per_epoch = len(self.rows) - len(self.rows) % self._batch_size
        places = [divmod(number, per_epoch) for number in range(first, first + count)]
        return pair_batch([self.rows[self._order(epoch)[place]] for epoch, place in places])

    def _shuffled(self, epoch: int) -> list[int]:
        rng = generator(self.seed, epoch)
        order = torch.randperm(len(self.rows), generator=rng)
        order = order[: len(order) - len(order) % self._batch_size]
        order = order[self._lengths[order].argsort(stable=True)]
        batches = order.view(-1, self._batch_size)
        batches = batches[torch.randperm(len(batches), generator=rng)]
        return [int(number) for number in batches.flatten()]

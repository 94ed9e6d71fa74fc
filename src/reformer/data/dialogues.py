"""Conversations from JSON lines to token stores, training sequences and labels.

Each line is {"messages": [{"role": "user", "content": …}, …]}; other keys are left alone.
A store holds whole conversations end to end, and who speaks follows from the markers in it.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from reformer.data.chat_template import ChatEncoder, Message, read_messages
from reformer.data.corpus import VALIDATION_PART, Corpus, has_corpus, open_corpus
from reformer.data.files import InputError, find_files, read_file
from reformer.data.sources import Batch, bits_per_byte
from reformer.data.store import TokenStore, write_store
from reformer.data.tokenizer import TokenIds, Tokenizer
from reformer.ops.randomness import derive_seed
from reformer.ops.sliced import IGNORED_LABEL

_LONGEST_LINE = 1 << 26


def prepare_dialogues(
    folder: Path,
    inputs: Sequence[str | Path],
    validation: str | Path | None,
    encoder: ChatEncoder,
    vocab_size: int,
) -> Corpus:
    """Tokenise conversations into ``folder``, or reuse the stores that are finished there.

    Without a validation file the last 5 % of the conversations are kept for validation.
    """
    if has_corpus(folder):
        return open_corpus(folder)
    files = find_files(inputs)
    total = sum(1 for _ in read_dialogues(files))
    kept = max(1, total // VALIDATION_PART) if validation is None else 0
    if total - kept < 1:
        names = ", ".join(str(file) for file in files[:3])
        raise InputError(
            f"{names} holds {total} conversations: at least one is needed to train on and one "
            "to validate on; give more, or a --validation file"
        )
    held_out = files if validation is None else find_files([validation])
    stores = {}
    for name, sources, first, end in (
        ("train", files, 0, total - kept),
        ("validation", held_out, total - kept if validation is None else 0, None),
    ):
        stores[name] = write_dialogues(folder, name, sources, encoder, vocab_size, first, end)
    return Corpus(stores["train"], stores["validation"])


def write_dialogues(
    folder: Path,
    name: str,
    files: Sequence[Path],
    encoder: ChatEncoder,
    vocab_size: int,
    first: int = 0,
    end: int | None = None,
) -> TokenStore:
    """Tokenise conversations number ``first`` to ``end`` of the files into a new store."""
    dialogues = _between(read_dialogues(files), first, end)
    parts = (part for dialogue in dialogues for part in _parts(dialogue, encoder))
    store = write_store(folder, name, parts, _Piecewise(encoder.tokenizer), vocab_size)
    if len(store) == 0:
        raise InputError(f"{files[0]} holds no conversations")
    return store


def read_dialogues(files: Iterable[Path]) -> Iterator[list[Message]]:
    """The conversations in JSON-lines files; InputError names the line that is wrong."""
    for file in files:
        for number, line in enumerate(_lines(file), start=1):
            if not line.strip():
                continue
            try:
                values = json.loads(line)
                if not isinstance(values, dict):
                    raise InputError("it must be an object with messages")
                yield read_messages(values.get("messages"))
            except UnicodeDecodeError as error:
                raise InputError(f"{file}, line {number}: it is not UTF-8 text") from error
            except (json.JSONDecodeError, RecursionError) as error:
                raise InputError(f"{file}, line {number}: it is not JSON: {error}") from error
            except ValueError as error:
                raise InputError(f"{file}, line {number}: {error}") from error


def _lines(file: Path) -> Iterator[bytes]:
    rest = b""
    for chunk in read_file(file):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
        if len(rest) > _LONGEST_LINE:
            raise InputError(
                f"{file} has a line of more than {_LONGEST_LINE} bytes: is it JSON lines?"
            )
    yield rest


def _between(
    dialogues: Iterator[list[Message]], first: int, end: int | None
) -> Iterator[list[Message]]:
    for number, dialogue in enumerate(dialogues):
        if number >= first and (end is None or number < end):
            yield dialogue


def _parts(dialogue: list[Message], encoder: ChatEncoder) -> Iterator[bytes]:
    """A conversation in pieces that are tokenised one by one, as in a chat."""
    template = encoder.template
    yield template.start.encode()
    for message in dialogue:
        yield str(getattr(template, message.role)).encode()
        yield template.clean(message.written).encode("utf-8", errors="replace")
        yield template.end.encode()


class _Piecewise:
    """A tokenizer that never joins neighbouring pieces of its input."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.vocab_size = tokenizer.vocab_size
        self.decoder = tokenizer.decoder

    def encode(self, chunks: Iterable[bytes]) -> Iterator[TokenIds]:
        for chunk in chunks:
            yield from self._tokenizer.encode([chunk])


def assistant_labels(tokens: npt.NDArray[Any], markers: dict[str, int]) -> npt.NDArray[np.int64]:
    """The tokens that the assistant writes, its end marker included; -100 elsewhere.

    tokens begin with a marker. int64, same length.
    """
    names = ("start", "system", "user", "assistant")
    begins = np.isin(tokens, [markers[name] for name in names])
    latest = np.maximum.accumulate(np.where(begins, np.arange(len(tokens)), 0))
    spoken = (tokens[latest] == markers["assistant"]) & ~begins
    return np.where(spoken, tokens.astype(np.int64), IGNORED_LABEL)


class DialogueSource:
    """Sequences of ``length`` tokens: from the start of a random message on.

    Each begins with the start marker, as a conversation of which only the latest messages are
    still seen. A conversation that ends before the sequence does is followed by the next, which
    sees nothing of it: a segment of its own, with positions from 0.
    """

    def __init__(self, store: TokenStore, length: int, seed: int, encoder: ChatEncoder) -> None:
        self.length, self.seed, self.encoder = length, seed, encoder
        self.unit = bits_per_byte(store.num_bytes / len(store))
        self._tokens = store.tokens
        roles = [encoder.markers[name] for name in ("system", "user", "assistant")]
        starts = np.flatnonzero(np.isin(store.tokens, roles))
        self._starts = starts[starts + length - 1 <= len(store)]
        if len(self._starts) == 0:
            raise InputError(
                f"length is {length}, but the conversations have {len(store)} tokens in all to "
                "train on: give more conversations or a shorter length"
            )

    def batch(self, first: int, count: int) -> Batch:
        rows, labels = [], []
        for number in range(first, first + count):
            place = self._starts[derive_seed(self.seed, number) % len(self._starts)]
            tokens = np.asarray(self._tokens[place : place + self.length - 1], dtype=np.int64)
            row = np.concatenate([self.encoder.start(), tokens])
            rows.append(row)
            labels.append(assistant_labels(row, self.encoder.markers))
        segments, positions = segments_of(np.stack(rows), self.encoder.markers["start"])
        return {
            "input_ids": torch.from_numpy(np.stack(rows)),
            "labels": torch.from_numpy(np.stack(labels)),
            "segment_ids": torch.from_numpy(segments),
            "positions": torch.from_numpy(positions),
        }


def segments_of(
    tokens: npt.NDArray[np.int64], start: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """For tokens [B, L] that begin with ``start`` markers, and may hold more: which conversation
    of its row each token is of, from 0, and its place in that."""
    begins = tokens == start
    places = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
    latest = np.maximum.accumulate(np.where(begins, places, 0), axis=1)
    return np.cumsum(begins, axis=1) - 1, places - latest

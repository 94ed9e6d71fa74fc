"""From input files to two token stores: one to train on, one for validation."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from reformer.data.files import InputError, count_bytes, find_files, read_files
from reformer.data.store import TokenStore, has_store, open_store, write_store
from reformer.data.tokenizer import Tokenizer

VALIDATION_PART = 20
"""Without a validation file, the last 1 / 20 of the stream is kept for validation."""

LEAST_TOKENS = 16
"""Tokens without which neither training nor validation says anything."""


@dataclass(frozen=True)
class Corpus:
    """The two stores that a run learns from and is judged by."""

    train: TokenStore
    validation: TokenStore


def prepare_corpus(
    folder: Path,
    inputs: Sequence[str | Path],
    validation: str | Path | None,
    tokenizer: Tokenizer,
    vocab_size: int,
) -> Corpus:
    """Tokenise the inputs into ``folder``, or reuse the stores that are finished there.

    Without a validation file the stream is cut: its last 5 % are for validation.
    """
    if has_corpus(folder):
        return open_corpus(folder)
    files = find_files(inputs)
    total = count_bytes(files)
    held_out = None
    if validation is not None:
        others = find_files([validation])
        count_bytes(others)
        held_out = read_files(others)
    return write_corpus(folder, read_files(files), total, held_out, tokenizer, vocab_size)


def has_corpus(folder: Path) -> bool:
    """Whether both stores are finished there."""
    return has_store(folder, "train") and has_store(folder, "validation")


def open_corpus(folder: Path) -> Corpus:
    """The stores of a finished corpus."""
    return Corpus(open_store(folder, "train"), open_store(folder, "validation"))


def write_corpus(
    folder: Path,
    chunks: Iterable[bytes],
    num_bytes: int,
    held_out: Iterable[bytes] | None,
    tokenizer: Tokenizer,
    vocab_size: int,
) -> Corpus:
    """The stores of a stream of ``num_bytes``; without ``held_out`` its last 5 % are cut off."""
    if held_out is None:
        chunks, held_out = split_stream(chunks, num_bytes - num_bytes // VALIDATION_PART)
        advice = "give more, or a --validation file"
    else:
        advice = "give more"
    corpus = Corpus(
        write_store(folder, "train", chunks, tokenizer, vocab_size),
        write_store(folder, "validation", held_out, tokenizer, vocab_size),
    )
    for name, store in (("training", corpus.train), ("validation", corpus.validation)):
        if len(store) < LEAST_TOKENS:
            raise InputError(
                f"the input leaves {len(store)} tokens for {name}, and at least {LEAST_TOKENS} "
                f"are needed: {advice}"
            )
    return corpus


def split_stream(
    chunks: Iterable[bytes], num_bytes: int
) -> tuple[Iterator[bytes], Iterator[bytes]]:
    """The first num_bytes of a stream, and the rest. Read the first to its end before the rest.

    The cut moves on by up to three bytes so that it does not split a UTF-8 character.
    """
    source = iter(chunks)
    rest = b""

    def head() -> Iterator[bytes]:
        nonlocal rest
        left = num_bytes
        for chunk in source:
            if len(chunk) <= left:
                left -= len(chunk)
                yield chunk
                continue
            cut = _character_start(chunk, left)
            rest = chunk[cut:]
            if cut:
                yield chunk[:cut]
            return

    def tail() -> Iterator[bytes]:
        if rest:
            yield rest
        yield from source

    return head(), tail()


def _character_start(chunk: bytes, cut: int) -> int:
    for position in range(cut, min(cut + 4, len(chunk))):
        if chunk[position] & 0xC0 != 0x80:
            return position
    return cut

"""Genomes and proteins from FASTA files: a value for each letter, and one that starts a record."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reformer.data.files import InputError, read_file
from reformer.data.signals.kind import SignalKind, Values

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ*-"
_START = 0
_BAD = 255
_LINE_LENGTH = 60
_CODES = bytes(
    _LETTERS.index(letter) + 1 if (letter := chr(byte).upper()) in _LETTERS else _BAD
    for byte in range(256)
)
_SPACE = b" \t\r"


@dataclass(frozen=True)
class Genome(SignalKind):
    """FASTA files: letters, lower case as upper; what a record's heading says is lost."""

    name = "genome"
    value_name = "letters"
    endings = frozenset({".fa", ".fasta", ".fna", ".ffn", ".faa"})
    vocab_size = len(_LETTERS) + 1

    @classmethod
    def of(cls, file: Path) -> "Genome":
        """The kind of every FASTA file."""
        return cls()

    def read(self, file: Path) -> Iterator[Values]:
        _require_heading(file)
        line, rest = 0, b""
        for chunk in read_file(file):
            *lines, rest = (rest + chunk).split(b"\n")
            yield _values(lines, line, file)
            line += len(lines)
        yield _values([rest], line, file)

    def write(self, values: Values, file: Path) -> None:
        with open(file, "x", encoding="ascii") as out:
            for number, record in enumerate(_records(values), start=1):
                out.write(f">{number}\n")
                for start in range(0, len(record), _LINE_LENGTH):
                    out.write(record[start : start + _LINE_LENGTH] + "\n")


def _require_heading(file: Path) -> None:
    start = next(read_file(file), b"")
    text = start.lstrip()
    if text and not text.startswith(b">"):
        line = start[: len(start) - len(text)].count(b"\n") + 1
        raise InputError(f"{file}, line {line}: a FASTA file starts with a line '>name'")


def _values(lines: list[bytes], before: int, file: Path) -> Values:
    """The values of whole lines, of which there are ``before`` earlier ones in the file."""
    parts = []
    for number, text in enumerate(lines, start=before + 1):
        if text.startswith(b">"):
            parts.append(bytes([_START]))
            continue
        codes = text.translate(_CODES, _SPACE)
        if _BAD in codes:
            bad = next(chr(byte) for byte in text if _CODES[byte] == _BAD and byte not in _SPACE)
            raise InputError(f"{file}, line {number}: {bad!r} is no letter of a sequence")
        parts.append(codes)
    return np.frombuffer(b"".join(parts), np.uint8)


def _records(values: Values) -> list[str]:
    text = "".join((">" + _LETTERS)[value] for value in values)
    return text.removeprefix(">").split(">")

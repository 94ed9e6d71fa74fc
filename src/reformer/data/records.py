"""Files of records: JSON lines, or CSV with a header; and such records kept in a run's folder."""

import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reformer.data.files import InputError, ending_of, read_file

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_JSON_LINES = {".jsonl", ".ndjson"}
_LONGEST_FIELD = 1 << 26


@dataclass(frozen=True)
class Record:
    """One record, and the place that an error names."""

    fields: dict[str, Any]
    file: Path
    line: int

    @property
    def place(self) -> str:
        """Its file and line, for sentences."""
        return f"{self.file}, line {self.line}"

    def error(self, problem: str) -> InputError:
        """An error that names the record's file and line."""
        return InputError(f"{self.place}: {problem}")

    def text(self, key: str) -> str:
        """The string under ``key``, which must be there and hold something."""
        value = self.fields.get(key)
        if not isinstance(value, str) or not value:
            raise self.error(f"{key} is {_short(value)}: it must be a string that is not empty")
        return value


def holds_records(file: Path) -> bool:
    """Whether the file's name says that it holds records."""
    return ending_of(file) in _DELIMITERS.keys() | _JSON_LINES


def read_records(files: Sequence[Path]) -> Iterator[Record]:
    """The records of .csv, .tsv, .jsonl and .ndjson files, also compressed.

    InputError names the file and the line that cannot be read.
    """
    for file in files:
        ending = ending_of(file)
        if not holds_records(file):
            raise InputError(f"{file} must be .csv, .tsv or .jsonl, also with .gz, .xz or .zst")
        text = read_text(file)
        if ending in _JSON_LINES:
            yield from _json_lines(text, file)
        else:
            yield from _table(text, file, _DELIMITERS[ending])


def read_text(file: Path) -> str:
    """A whole file of UTF-8, without a byte order mark; InputError names the line that is not."""
    data = b"".join(read_file(file))
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{file}, line {line}: it is not UTF-8 text") from error


def keep_records(folder: Path, name: str, records: Sequence[dict[str, Any]]) -> None:
    """Write ``folder/NAME.jsonl``, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{name}.part"
    lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    # Half of a surrogate pair, which JSON can hold, is no text.
    part.write_text("".join(lines), encoding="utf-8", errors="replace")
    os.replace(part, _kept(folder, name))


def has_records(folder: Path, *names: str) -> bool:
    """Whether all these were kept."""
    return all(_kept(folder, name).is_file() for name in names)


def kept_records(folder: Path, name: str) -> list[Record]:
    """What ``keep_records`` wrote."""
    return list(read_records([_kept(folder, name)]))


def _kept(folder: Path, name: str) -> Path:
    return folder / f"{name}.jsonl"


def _json_lines(text: str, file: Path) -> Iterator[Record]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{file}, line {number}: it is not JSON: {error}") from error
        if not isinstance(fields, dict):
            raise InputError(f"{file}, line {number}: it must be an object, such as {{…}}")
        yield Record(fields, file, number)


def _table(text: str, file: Path, delimiter: str) -> Iterator[Record]:
    csv.field_size_limit(_LONGEST_FIELD)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    end = 0
    try:
        for row in reader:
            line, end = end + 1, reader.line_num
            if header is None:
                header = row
                _require_different(header, file, line)
            elif row:
                yield Record(_fields(header, row, file, line), file, line)
    except csv.Error as error:
        raise InputError(f"{file}, line {reader.line_num}: {error}") from error


def _require_different(header: list[str], file: Path, line: int) -> None:
    for name in header:
        if name and header.count(name) > 1:
            raise InputError(
                f"{file}, line {line}: the header has {name!r} {header.count(name)} times: "
                "columns need different names"
            )


def _fields(header: list[str], row: list[str], file: Path, line: int) -> dict[str, Any]:
    if len(row) != len(header):
        raise InputError(
            f"{file}, line {line}: it has {len(row)} fields where the header has {len(header)}"
        )
    return dict(zip(header, row, strict=True))


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "…"

"""A series of numbers from a column of a CSV file, in 256 steps from its lowest to its highest."""

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt

from reformer.data.files import InputError
from reformer.data.records import Record, read_records
from reformer.data.signals.kind import SignalKind, Values

_STEPS = 256


@dataclass(frozen=True)
class Series(SignalKind):
    """Numbers from ``low`` to ``high``; those beyond become the nearest of the two."""

    column: str
    low: float
    high: float

    name = "series"
    value_name = "numbers"
    endings = frozenset({".csv", ".tsv"})
    vocab_size = num_levels = _STEPS

    @classmethod
    def of(cls, files: Sequence[Path], column: str | None) -> "Series":
        """The kind of these files; without ``column``, of the only one that holds numbers."""
        if column is None:
            column = _only_column(files[0])
        numbers = np.fromiter(chain.from_iterable(_numbers(f, column) for f in files), np.float64)
        if len(numbers) == 0 or numbers.min() == numbers.max():
            raise InputError(
                f"the column {column!r} of {files[0]} holds "
                + ("no numbers" if len(numbers) == 0 else f"{numbers[0]:g} and nothing else")
                + ": there is nothing to learn"
            )
        return cls(column, float(numbers.min()), float(numbers.max()))

    def read(self, file: Path) -> Iterator[Values]:
        numbers = np.fromiter(_numbers(file, self.column), np.float64)
        yield self._steps(numbers)

    def write(self, values: Values, file: Path) -> None:
        numbers = self.low + values * (self.high - self.low) / (_STEPS - 1)
        with open(file, "x", encoding="utf-8", newline="") as out:
            table = csv.writer(out)
            table.writerow([self.column])
            table.writerows([f"{number:.6g}"] for number in numbers)

    def _steps(self, numbers: npt.NDArray[np.float64]) -> Values:
        share = (np.clip(numbers, self.low, self.high) - self.low) / (self.high - self.low)
        return np.round(share * (_STEPS - 1)).astype(np.uint8)


def _only_column(file: Path) -> str:
    first = next(read_records([file]), None)
    if first is None:
        raise InputError(f"{file} has no line below its header")
    columns = [name for name in first.fields if _number(first, name) is not None]
    if len(columns) != 1:
        raise InputError(
            f"{file} has {len(columns)} columns of numbers ({', '.join(columns)}): "
            "say with --column which one to learn"
            if columns
            else f"{file}, line {first.line}: there is no number in it"
        )
    return columns[0]


def _numbers(file: Path, column: str) -> Iterator[float]:
    for record in read_records([file]):
        if column not in record.fields:
            names = ", ".join(record.fields)
            raise InputError(f"{file} has no column {column!r}; it has {names}")
        number = _number(record, column)
        if number is None:
            raise record.error(f"{column} is {record.fields[column]!r}: it must be a number")
        yield number


def _number(record: Record, column: str) -> float | None:
    try:
        number = float(record.fields[column])
    except ValueError:
        return None
    return number if math.isfinite(number) else None

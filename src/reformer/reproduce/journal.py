"""Measurements as JSON lines: what has been measured is not measured again."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reformer.data.files import InputError

Row = dict[str, Any]


class Journal:
    """Rows in a file, one JSON object a line, found again by the fields that name them."""

    def __init__(self, path: Path) -> None:
        """Read what is there; a last line that a crash cut short is dropped."""
        self.path = path
        self.rows: list[Row] = []
        if not path.exists():
            return
        lines = path.read_bytes().splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):
            os.truncate(path, sum(map(len, lines[:-1])))
            lines.pop()
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise InputError(f"{path}, line {number}, is not JSON: {error}") from error
            if not isinstance(row, dict):
                raise InputError(f"{path}, line {number}, is not a JSON object")
            self.rows.append(row)

    def find(self, key: Mapping[str, Any]) -> Row | None:
        """The row with these fields, if it has been measured."""
        for row in self.rows:
            if all(row.get(name) == value for name, value in key.items()):
                return row
        return None

    def add(self, row: Row) -> None:
        """Append a row; it is on the disk when this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.rows.append(row)

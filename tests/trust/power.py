"""What a disk may hold after a power failure, for programs that run in this process.

A file system may keep back whatever has not been flushed: the contents of files in any order,
and the changes of folders in the order in which they were made, as journals do. Flushing a file
keeps its contents, flushing a folder keeps its entries and all changes before them.
"""

import os
import random
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

Tree = dict[str, int | None]
"""Paths below the root: the number of a file's contents, or None for a folder."""


@dataclass
class Disk:
    """Records what happens below ``root``, one moment per call to the system."""

    root: Path
    trees: list[Tree] = field(default_factory=list)
    current: dict[int, bytes] = field(default_factory=dict)
    flushed: dict[int, bytes] = field(default_factory=dict)
    first_possible: int = 0
    """The oldest of ``trees`` that a power failure could leave."""
    _numbers: dict[int, int] = field(default_factory=dict)
    _pausing: bool = False

    @contextmanager
    def recorded(self, at_each_moment: Callable[["Disk"], None]) -> Iterator[None]:
        """Calls ``at_each_moment`` before and after every call that flushes or renames."""

        def watched(name: str) -> Any:
            call = getattr(os, name)

            def record(*args: Any, **kwargs: Any) -> Any:
                if self._pausing:
                    return call(*args, **kwargs)
                self.moment(at_each_moment)
                result = call(*args, **kwargs)
                self.look()
                if name == "fsync":
                    self._flush(args[0])
                self.moment(at_each_moment)
                return result

            return record

        self.look()
        self.first_possible = len(self.trees) - 1
        self.flushed = dict(self.current)
        names = ("fsync", "rename", "replace", "mkdir", "rmdir", "unlink")
        with patch.multiple(os, **{name: watched(name) for name in names}):
            yield
        self.moment(at_each_moment)

    def moment(self, at_each_moment: Callable[["Disk"], None]) -> None:
        """One more moment at which the power may fail."""
        self.look()
        self._pausing = True  # what happens now is not recorded
        at_each_moment(self)
        self._pausing = False

    def look(self) -> None:
        """Take in what has changed."""
        tree: Tree = {}
        alive = {}
        for path in sorted(self.root.rglob("*")):
            status = path.stat()
            name = str(path.relative_to(self.root))
            if stat.S_ISDIR(status.st_mode):
                tree[name] = None
                continue
            # A file system reuses numbers: one that was gone in between is another file.
            number = self._numbers.get(status.st_ino, len(self.current))
            alive[status.st_ino] = number
            self.current[number] = path.read_bytes()
            tree[name] = number
        self._numbers = alive
        if not self.trees or self.trees[-1] != tree:
            self.trees.append(tree)

    def _flush(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        if not stat.S_ISDIR(status.st_mode):
            number = self._numbers.get(status.st_ino)
            if number is not None:
                self.flushed[number] = self.current[number]
            return
        folder = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        inside = folder.relative_to(self.root) if folder.is_relative_to(self.root) else None
        if inside is None:
            return
        for index in range(len(self.trees) - 1, self.first_possible, -1):
            before, after = (_entries(self.trees[i], inside) for i in (index - 1, index))
            if before != after:
                self.first_possible = index
                return

    def after_power_failure(self, target: Path, rng: random.Random) -> None:
        """Lay out below ``target`` what the disk may hold if the power fails now."""
        tree = self.trees[rng.randint(self.first_possible, len(self.trees) - 1)]
        for name, number in tree.items():
            path = target / name
            if number is None:
                path.mkdir(parents=True, exist_ok=True)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self._contents(number, rng))

    def _contents(self, number: int, rng: random.Random) -> bytes:
        whole, kept = self.current[number], self.flushed.get(number, b"")
        if whole == kept or rng.random() < 0.4:
            return kept
        if rng.random() < 0.3:
            return whole
        length = rng.randint(0, len(whole))
        return whole[:length] + bytes(rng.choice((0, len(whole) - length)))


def _entries(tree: Tree, folder: Path) -> dict[str, int | None]:
    return {name: number for name, number in tree.items() if Path(name).parent == folder}

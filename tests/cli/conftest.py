"""A small trained run, and the command called as a user calls it."""

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from reformer.cli import main
from reformer.data.files import shipped_novel

TINY = ("--preset", "tiny", "--length", "32", "--batch-size", "2", "--evaluate-tokens", "200")


@dataclass(frozen=True)
class Answer:
    """What a command printed and its exit code."""

    code: int
    out: str
    err: str


Command = Callable[..., Answer]


def call(*words: object) -> Answer:
    """The command in this process."""
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:
            code = int(stop.code or 0)
    out.flush()
    return Answer(code, out.buffer.getvalue().decode(), err.getvalue())  # type: ignore[attr-defined]


@pytest.fixture(scope="session")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some pages of the novel."""
    path = tmp_path_factory.mktemp("text") / "book.txt"
    path.write_bytes(shipped_novel().read_bytes()[:8000])
    return path


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, book: Path) -> Path:
    """A finished run on those pages."""
    path = tmp_path_factory.mktemp("runs") / "run"
    answer = call("train", book, *TINY, "--steps", 12, "--out", path)
    assert answer.code == 0, answer.err
    return path

"""Whatever the task, a file that it cannot learn from is named in one sentence; nothing is left."""

from pathlib import Path
from typing import get_args

import pytest

from reformer import settings
from tests.cli.conftest import call

LATIN = "naïve caf\xe9".encode("latin-1") * 90
BINARY = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 9
ENDINGS = {
    "classify": (".csv", ".tsv", ".jsonl"),
    "tag": (".conll", ".jsonl"),
    "qa": (".json",),
    "find": (".txt", ".json", ".jsonl", ".csv"),
    "seq2seq": (".tsv", ".jsonl", ".csv"),
    "dialogue": (".jsonl",),
    "image": (".png", ".jpg"),
    "signal": (".csv", ".wav", ".fa"),
    "text": (".txt",),
    "masked": (".txt",),
}
BYTES = ("text", "masked")
"""They learn any bytes."""
WRONG: dict[str, bytes | None] = {
    "missing": None,
    "empty": b"",
    "binary": BINARY,
    "latin": LATIN,
    "cut": b'{"text": "a", "label": "x", "source": "a", "target": "b", "messages": [',
    "header": b"a,b\n",
}
CASES = [
    (task, what + ending)
    for task, endings in ENDINGS.items()
    for ending in endings
    for what in WRONG
    if not (task in BYTES and what in ("binary", "latin", "cut", "header"))
    and not (task == "find" and ending == ".txt" and what in ("cut", "header"))
]


def test_every_task_is_tried() -> None:
    assert {*ENDINGS, "copy"} == set(get_args(settings.Task))  # copy reads no files


@pytest.mark.parametrize(("task", "name"), CASES)
def test_a_file_that_cannot_be_learned_is_named(task: str, name: str, tmp_path: Path) -> None:
    file, out = tmp_path / name, tmp_path / "run"
    if (data := WRONG[name.partition(".")[0]]) is not None:
        file.write_bytes(data)
    answer = call("train", file, "--task", task, "--length", 64, "--steps", 1, "--out", out)
    assert answer.code == 2, answer.out
    assert answer.err.count("\n") == 1 and name in answer.err
    assert not out.exists()


@pytest.mark.parametrize("task", [*BYTES, "find", "signal"])
def test_files_that_leave_nothing_to_train_on(task: str, tmp_path: Path) -> None:
    file = tmp_path / ("short.csv" if task == "signal" else "short.txt")
    file.write_text("level\n1\n2\n" if task == "signal" else "hello")
    answer = call("train", file, "--task", task, "--length", 64, "--out", tmp_path / "run")
    assert answer.code == 2
    assert answer.err.count("\n") == 1 and "give more" in answer.err
    assert not (tmp_path / "run").exists()

"""Bad input costs one sentence and exit code 2; nothing is made, overwritten or lost."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import TINY, call


def _contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"folder"
        for path in folder.rglob("*")
    }


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: Path, book: Path) -> Path:
    """A folder with good and bad things in it."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, "run")
    shutil.copy(book, "book.txt")
    Path("empty.txt").touch()
    Path("binary").mkdir()
    Path("binary/data").write_bytes(b"\0\1\2")
    Path("short.txt").write_text("short")
    Path("bad.gz").write_text("this is not gzip")
    Path("latin.txt").write_bytes("naïve ".encode("latin-1") * 200)
    Path("model").mkdir()
    Path("model/config.json").write_text("{}")
    Path("bad.json").write_text("{}")
    call("tokenizer", "train", "book.txt", "--vocab-size", "300", "--out", "tokenizer.json")
    return tmp_path


BAD = {
    "train missing.txt": "missing.txt",
    "train *.nothing": "*.nothing",
    "train empty.txt": "empty.txt",
    "train binary": "binary",
    "train short.txt": "give more, or a --validation file",
    "train bad.gz": "bad.gz",
    "train book.txt --out run": "not empty",
    "train book.txt --out book.txt": "book.txt",
    "train book.txt --out /proc/nowhere/run": "/proc/nowhere",
    "train book.txt --preset huge": "novel",
    "train book.txt --validation missing.txt": "missing.txt",
    "train book.txt --validation empty.txt": "empty.txt",
    "train book.txt --length 100000": "100000",
    "train book.txt --length 0": "0",
    "train book.txt --length -5": "-5",
    "train book.txt --length 1e99": "1e99",
    "train book.txt --length 99999999999999999999": "99999999999999999999",
    "train book.txt --steps 0": "steps",
    "train book.txt --steps nan": "nan",
    "train book.txt --batch-size -1": "batch_size",
    "train book.txt --batch-size 2000000000": "memory",
    "train book.txt --hidden-size 0": "hidden_size",
    "train book.txt --hidden-size 65536 --feed-forward-size 262144": "memory",
    "train book.txt --learning-rate nan": "learning_rate",
    "train book.txt --learning-rate -1": "learning_rate",
    "train book.txt --learning-rate 0": "learning_rate",
    "train book.txt --clip-norm inf": "clip_norm",
    "train book.txt --adam-beta2 1": "adam_beta2",
    "train book.txt --dropout 1": "dropout",
    "train book.txt --seed -1": "seed",
    "train book.txt --num-hashes 0": "num_hashes",
    "train book.txt --layers local --num-hashes 2": "num_hashes",
    "train book.txt --layers lstm": "lstm",
    "train book.txt --vocab-size 100": "vocab_size",
    "train book.txt --tokenizer missing.json": "missing.json",
    "train book.txt --tokenizer bad.json": "bad.json",
    "train book.txt --tokenizer tokenizer.json --vocab-size 999": "999",
    "train latin.txt --tokenizer tokenizer.json": "UTF-8",
    "train book.txt --lenght 5": "--lenght",
    "train book.txt --activation sin": "sin",
    "train book.txt --preset copy": "copy",
    "train --preset copy --length 31": "31",
    "train --resume": "no run",
    "train --resume --out missing": "missing",
    "train --resume --out run --length 64": "length",
    "train --resume --out run --learning-rate 0.1": "learning_rate",
    "train --resume --out run --preset novel": "preset",
    "train --resume --out run empty.txt": "other files",
    "evaluate": "RUN",
    "evaluate missing book.txt": "missing",
    "evaluate binary book.txt": "binary",
    "evaluate model book.txt": "config.json",
    "evaluate run missing.txt": "missing.txt",
    "evaluate run empty.txt": "empty.txt",
    "evaluate run book.txt --length 33": "32",
    "evaluate run book.txt --length 0": "0",
    "evaluate run book.txt --num-hashes 0": "num_hashes",
    "evaluate run book.txt --tokenizer tokenizer.json": "300",
    "generate missing": "missing",
    "generate run --temperature nan": "temperature",
    "generate run --temperature -1": "temperature",
    "generate run --top-k 0": "top_k",
    "generate run --top-p 2": "top_p",
    "generate run --max-new-tokens 0": "max_new_tokens",
    "generate run --max-new-tokens 99999999999": "max_new_tokens",
    "generate run --seed -1": "seed",
    "plan --preset nothing": "nothing",
    "tokenizer train missing.txt --out new.json": "missing.txt",
    "tokenizer train book.txt --out new.json --vocab-size 3": "vocab_size",
    "tokenizer train book.txt": "exists",
    "dance": "dance",
}


@pytest.mark.parametrize("line", BAD)
def test_bad_input_is_one_sentence_and_changes_nothing(here: Path, line: str) -> None:
    before = _contents(here)
    command, *words = line.split()
    small = command == "train" and not {"--preset", "--resume"} & set(words)
    # The line's own words come last: they win over the small settings.
    answer = call(command, *(TINY if small else ()), *words)
    assert answer.code == 2, answer.out + answer.err
    assert answer.err.count("\n") == 1, answer.err
    assert BAD[line] in answer.err
    assert _contents(here) == before


def test_a_damaged_model_is_one_sentence(here: Path) -> None:
    path = here / "run" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-20])
    for words in (["evaluate", "run", "book.txt"], ["generate", "run"]):
        answer = call(*words)
        assert answer.code == 2 and answer.err.count("\n") == 1
        assert "model.safetensors" in answer.err


def test_a_prompt_outside_the_vocabulary_is_named(here: Path) -> None:
    sizes = ["--length", 16, "--vocab-size", 8, "--hidden-size", 16, "--steps", 1]
    assert call("train", "--preset", "copy", *sizes, "--out", "copy").code == 0
    answer = call("generate", "copy", "--prompt", "a")
    assert answer.code == 2 and "token id 97" in answer.err


def test_help_comes_at_once_and_mistakes_are_not_tracebacks(tmp_path: Path) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "reformer", *words]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    helped = run("--help")
    assert helped.returncode == 0 and "tokenizer train" in helped.stdout
    mistaken = run("evaluate", "nothing")
    assert (mistaken.returncode, mistaken.stdout) == (2, "")
    assert mistaken.stderr == "reformer: nothing is not a model: it has no config.json\n"

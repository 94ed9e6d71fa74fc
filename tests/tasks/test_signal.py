"""From a signal's file to a model that continues it, by the commands."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import call

SMALL = (
    "--task", "signal", "--length", 64, "--hidden-size", 24, "--feed-forward-size", 32,
    "--num-heads", 2, "--head-size", 8, "--steps", 80, "--batch-size", 8, "--warmup-steps", 5,
    "--learning-rate", 0.02, "--evaluate-every", 40,
)  # fmt: skip
PATTERN = [0.0, 3.0, 1.0, 2.0, 5.0]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five numbers again and again, after a column of days."""
    path = tmp_path_factory.mktemp("signals") / "tides.csv"
    lines = [f"day {day},{PATTERN[day % 5]},{day}" for day in range(2000)]
    path.write_text("\n".join(["day,level,number", *lines]) + "\n")
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, file: Path) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    answer = call("train", file, *SMALL, "--column", "level", "--out", path)
    assert answer.code == 0, answer.err
    assert "series, 1,900 numbers" in answer.out
    return path


def test_a_pattern_costs_next_to_nothing_once_learned(run: Path, file: Path) -> None:
    for words in ((), (file,)):
        answer = call("evaluate", run, *words, "--json")
        assert answer.code == 0, answer.err
        assert json.loads(answer.out)["bits_per_value"] < 0.5


def test_it_goes_on(run: Path, file: Path, tmp_path: Path) -> None:
    out = tmp_path / "more.csv"
    answer = call("extend", run, file, "--values", 20, "--temperature", 0, "--out", out)
    assert answer.code == 0, answer.err
    assert answer.out.strip() == str(out)
    numbers = np.loadtxt(out, skiprows=1)
    assert numbers == pytest.approx(np.array(PATTERN * 404))
    again = call("extend", run, file, "--values", 20, "--out", out)
    assert again.code == 2
    assert "exists and is never overwritten" in again.err


def test_a_result_finds_a_name_of_its_own(run: Path, file: Path) -> None:
    for number in (1, 2):
        answer = call("extend", run, file, "--values", 2)
        assert answer.out.strip() == str(run / f"extended-{number}.csv")


def test_mistakes_are_one_sentence(run: Path, file: Path, tmp_path: Path) -> None:
    genome = tmp_path / "a.fa"
    genome.write_text(">a\nACGT\n")
    mistakes = [
        (("train", "--task", "signal"), "name .wav, .fasta or .csv files"),
        (("train", file, *SMALL), "2 columns of numbers (level, number): say with --column"),
        (("train", genome, *SMALL, "--column", "a"), "a genome without columns"),
        (("train", genome, *SMALL), "the input leaves"),
        (("evaluate", run, genome), "this model learns a series"),
        (("extend", run, genome), "this model learns a series"),
        (("extend", run, file, "--values", 0), "values is 0"),
        (("extend", tmp_path, file), "use a run of --task signal"),
    ]
    for words, sentence in mistakes:
        where = ("--out", tmp_path / "none") if words[0] == "train" else ()
        answer = call(*words, *where)
        assert answer.code == 2, words
        assert sentence in answer.err
        assert answer.err.count("\n") == 1
        assert not (tmp_path / "none").exists()

"""``reformer inspect`` and ``reformer reproduce``, as a user calls them."""

import json
from pathlib import Path

import pytest

from reformer.reproduce import speed
from reformer.reproduce.findings import Check, Findings, Interrupted
from tests.cli.conftest import TINY, call


def test_an_inspection_is_numbers_pictures_and_json(
    trained: Path, book: Path, tmp_path: Path
) -> None:
    answer = call("inspect", trained, book, "--out", tmp_path)
    assert answer.code == 0, answer.err
    assert "mass" in answer.out and "buckets" in answer.out
    report = json.loads((tmp_path / "inspection.json").read_text())
    assert report["num_tokens"] == 32 and len(report["heads"]) == 2
    for name in ("buckets.png", "coverage.png", "attention.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    answer = call("inspect", trained, book, "--out", tmp_path, "--json", "--num-hashes", 3)
    assert len(json.loads(answer.out)["heads"][0]["covered_by_rounds"]) == 6


def test_what_cannot_be_inspected_is_said_in_a_sentence(
    trained: Path, book: Path, tmp_path: Path
) -> None:
    (tmp_path / "short.txt").write_text("a")
    local = tmp_path / "local"
    assert call("train", book, *TINY, "--layers", "local", "--steps", 1, "--out", local).code == 0
    for words, expected in (
        ((trained, tmp_path / "short.txt"), "has 1 tokens"),
        ((trained, tmp_path / "none.txt"), "there is no file"),
        ((trained, book, "--length", 33), "from 2 to 32"),
        ((trained, book, "--queries", 0), "queries is 0"),
        ((local, book), "no LSH layer"),
    ):
        answer = call("inspect", *words)
        assert answer.code == 2 and expected in answer.err, answer.err
        assert answer.err.count("\n") == 1


def _findings(passed: bool) -> Findings:
    checks = [Check("a claim", "a number", passed)]
    return Findings("Title", [], "| a |\n| --- |", checks, lambda axes: axes.plot([1], label="a"))


@pytest.mark.parametrize("passed", [True, False])
def test_the_exit_code_says_whether_the_claims_hold(
    passed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "measure", lambda size, folder, say: _findings(passed))
    answer = call("reproduce", "speed", "--out", tmp_path, "--json")
    assert answer.code == (0 if passed else 1)
    assert json.loads(answer.out)["passed"] is passed
    assert (tmp_path / "speed-quick.md").is_file()


def test_a_stop_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(size: str, folder: Path, say: object) -> Findings:
        raise Interrupted(143)

    monkeypatch.setattr(speed, "measure", stopped)
    answer = call("reproduce", "speed", "--out", tmp_path)
    assert answer.code == 143 and "goes on from here" in answer.err
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_one_is_said_before_anything_is_measured(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        answer = call("reproduce", "speed", "--out", out)
        assert answer.code == 2 and "name a folder" in answer.err, answer.err
        assert answer.err.count("\n") == 1 and answer.out == ""

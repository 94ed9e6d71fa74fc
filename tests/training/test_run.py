"""A run folder belongs to one run."""

from pathlib import Path

import pytest

from reformer.data.tokenizer import ByteTokenizer
from reformer.training.run import (
    RunDescription,
    RunError,
    create_run,
    find_run,
    next_run_path,
    open_run,
)
from tests.training.conftest import CONFIG, SETTINGS

DESCRIPTION = RunDescription("novel", CONFIG, SETTINGS, ("/a/b.txt", "/c/*.gz"), "/d.txt")


def test_a_description_survives(tmp_path: Path) -> None:
    create_run(tmp_path / "run", DESCRIPTION, ByteTokenizer())
    assert open_run(tmp_path / "run").description == DESCRIPTION


def test_a_folder_with_anything_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="not empty"):
        create_run(tmp_path, DESCRIPTION, ByteTokenizer())
    with pytest.raises(RunError, match="is a file"):
        create_run(tmp_path / "notes.txt", DESCRIPTION, ByteTokenizer())
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_empty_folder_may_be_used(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    assert create_run(tmp_path / "run", DESCRIPTION, ByteTokenizer()).path.is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_new_runs_get_the_next_number_and_the_last_is_found(tmp_path: Path) -> None:
    assert next_run_path(tmp_path, "novel") == tmp_path / "novel-1"
    with pytest.raises(RunError, match="no run"):
        find_run(tmp_path, None, "novel")
    for name in ("novel-2", "novel-10", "novel-old", "tiny-99"):
        create_run(tmp_path / name, DESCRIPTION, ByteTokenizer())
    assert next_run_path(tmp_path, "novel") == tmp_path / "novel-11"
    assert find_run(tmp_path, None, "novel").path == tmp_path / "novel-10"
    assert find_run(tmp_path, tmp_path / "novel-2", "novel").path == tmp_path / "novel-2"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 9}', '{"format": 1, "preset": 3}'])
def test_a_description_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(RunError, match=r"run\.json"):
        open_run(tmp_path)

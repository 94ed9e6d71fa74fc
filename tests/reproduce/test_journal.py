"""What has been measured stays measured."""

from pathlib import Path

import pytest

from reformer.data.files import InputError
from reformer.reproduce.journal import Journal


def test_rows_are_found_again_in_another_process(tmp_path: Path) -> None:
    path = tmp_path / "new" / "rows.jsonl"
    journal = Journal(path)
    assert journal.find({"length": 4}) is None
    journal.add({"length": 4, "seed": 0, "bits": 2.5})
    journal.add({"length": 4, "seed": 1, "bits": 2.25})
    again = Journal(path)
    assert again.find({"length": 4, "seed": 1}) == {"length": 4, "seed": 1, "bits": 2.25}
    assert again.find({"length": 5}) is None
    assert again.rows == journal.rows


def test_a_line_that_a_crash_cut_short_is_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    Journal(path).add({"length": 4})
    path.write_bytes(path.read_bytes() + b'{"length": 8, "bi')
    journal = Journal(path)
    assert journal.rows == [{"length": 4}]
    journal.add({"length": 8})
    assert Journal(path).rows == [{"length": 4}, {"length": 8}]


@pytest.mark.parametrize("line", ["no JSON", "[1]"])
def test_a_file_that_is_no_journal_is_named_with_its_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n' + line + "\n")
    with pytest.raises(InputError, match=r"rows\.jsonl, line 2"):
        Journal(path)

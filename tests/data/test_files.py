"""Whatever holds the text, the stream of bytes is the text; what cannot be read is named."""

import gzip
import lzma
import os
from pathlib import Path

import pytest
import zstandard

from reformer.data.files import InputError, count_bytes, find_files, read_file, read_files

TEXT = b"It was the best of times, \xff\x00 it was the worst of times.\n" * 50


def _read(*paths: Path, chunk_size: int = 7) -> bytes:
    return b"".join(read_files(paths, chunk_size))


@pytest.mark.parametrize(
    ("suffix", "compress"),
    [(".gz", gzip.compress), (".xz", lzma.compress), (".zst", zstandard.compress)],
)
def test_a_compressed_file_is_the_file(tmp_path: Path, suffix: str, compress: object) -> None:
    path = tmp_path / f"text{suffix}"
    path.write_bytes(compress(TEXT))  # type: ignore[operator]
    assert _read(path) == TEXT
    # Tools append to compressed files: two members are one stream.
    path.write_bytes(compress(TEXT) + compress(b"more"))  # type: ignore[operator]
    assert _read(path) == TEXT + b"more"
    assert count_bytes([path]) == len(TEXT) + 4


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
def test_a_file_that_is_not_what_its_name_says_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"text{suffix}"
    path.write_bytes(TEXT)
    with pytest.raises(InputError, match=f"text{suffix}"):
        _read(path)


@pytest.mark.parametrize(
    ("suffix", "compress"),
    [(".gz", gzip.compress), (".xz", lzma.compress), (".zst", zstandard.compress)],
)
def test_a_truncated_file_is_noticed(tmp_path: Path, suffix: str, compress: object) -> None:
    path = tmp_path / f"text{suffix}"
    path.write_bytes(compress(os.urandom(5000))[:-40])  # type: ignore[operator]
    with pytest.raises(InputError, match="damaged"):
        _read(path)


def test_a_folder_stands_for_its_text_files_in_order(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / ".git").mkdir()
    for name, data in {
        "c.txt": b"c", "b/a.txt": b"a", ".hidden": b"h", ".git/x": b"x",
        "image.png": b"\x89PNG\0\0", "empty.txt": b"",
    }.items():  # fmt: skip
        (tmp_path / name).write_bytes(data)
    assert find_files([tmp_path]) == [tmp_path / "c.txt", tmp_path / "b" / "a.txt"]
    # By name or by glob, binary files are welcome.
    assert find_files([tmp_path / "*.png"]) == [tmp_path / "image.png"]


@pytest.mark.parametrize("name", ["missing.txt", "*.nothing", "empty-folder", "binary-folder"])
def test_input_without_files_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty-folder").mkdir()
    (tmp_path / "binary-folder").mkdir()
    (tmp_path / "binary-folder" / "data").write_bytes(b"\0\1")
    with pytest.raises(InputError) as caught:
        find_files([tmp_path / name])
    assert name in str(caught.value)


def test_an_empty_file_and_an_endless_one_are_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.touch()
    with pytest.raises(InputError, match=r"empty\.txt"):
        count_bytes([empty])
    with pytest.raises(InputError, match="not a regular file"):
        find_files(["/dev/zero"])


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Is a directory"):
        list(read_file(tmp_path))

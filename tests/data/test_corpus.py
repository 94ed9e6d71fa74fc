"""The last twentieth of the text is kept for validation, and every byte is in one part."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reformer.data.corpus import prepare_corpus, split_stream
from reformer.data.files import InputError, shipped_novel
from reformer.data.tokenizer import ByteTokenizer


@given(st.binary(max_size=60), st.integers(0, 70), st.integers(1, 8))
def test_a_split_stream_loses_nothing(data: bytes, cut: int, size: int) -> None:
    chunks = (data[start : start + size] for start in range(0, len(data), size))
    head, tail = (b"".join(part) for part in split_stream(chunks, cut))
    assert head + tail == data
    assert min(cut, len(data)) <= len(head) <= cut + 3


@given(st.text(alphabet="a🐋ü", min_size=1), st.integers(0, 60))
def test_a_split_is_between_characters(text: str, cut: int) -> None:
    head, tail = (b"".join(part) for part in split_stream([text.encode()], cut))
    assert head.decode() + tail.decode() == text


def test_the_shipped_novel_keeps_its_last_twentieth_for_validation(tmp_path: Path) -> None:
    corpus = prepare_corpus(tmp_path, [shipped_novel()], None, ByteTokenizer(), 256)
    novel = shipped_novel().read_bytes()
    assert len(novel) == 1_215_232
    assert bytes(corpus.train.tokens) + bytes(corpus.validation.tokens) == novel
    assert 0.049 < len(corpus.validation) / len(novel) < 0.051


def test_a_validation_file_leaves_the_text_whole(tmp_path: Path) -> None:
    text, other = tmp_path / "text", tmp_path / "other"
    text.write_bytes(b"a" * 1000)
    other.write_bytes(b"b" * 100)
    corpus = prepare_corpus(tmp_path / "data", [text], other, ByteTokenizer(), 256)
    assert bytes(corpus.train.tokens) == b"a" * 1000
    assert bytes(corpus.validation.tokens) == b"b" * 100


def test_finished_stores_are_used_again_without_the_text(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_bytes(b"a" * 1000)
    first = prepare_corpus(tmp_path / "data", [text], None, ByteTokenizer(), 256)
    text.unlink()
    again = prepare_corpus(tmp_path / "data", [text], None, ByteTokenizer(), 256)
    assert bytes(again.train.tokens) == bytes(first.train.tokens)


@pytest.mark.parametrize("size", [1, 15, 200])
def test_too_little_text_is_refused(tmp_path: Path, size: int) -> None:
    text = tmp_path / "text"
    text.write_bytes(b"a" * size)
    with pytest.raises(InputError, match="give more, or a --validation file"):
        prepare_corpus(tmp_path / "data", [text], None, ByteTokenizer(), 256)

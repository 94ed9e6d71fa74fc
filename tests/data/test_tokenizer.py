"""Text survives its tokens, whatever it is and however it is cut."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reformer.data.files import InputError, read_file, shipped_novel
from reformer.data.tokenizer import (
    ByteTokenizer,
    JsonTokenizer,
    Tokenizer,
    text_blocks,
    tokenizer_in,
    train_tokenizer,
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> JsonTokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(train_tokenizer([next(read_file(shipped_novel(), 100_000))], 400))
    return JsonTokenizer(path)


def _cut(data: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def _round_trip(tokenizer: Tokenizer, data: bytes, size: int = 5) -> str:
    decoder = tokenizer.decoder()
    ids = np.concatenate([np.zeros(0, int), *tokenizer.encode(_cut(data, size))])
    assert ids.size == 0 or 0 <= ids.min() <= ids.max() < tokenizer.vocab_size
    return "".join(decoder.feed(int(i)) for i in ids) + decoder.finish()


@given(st.text(), st.integers(1, 9))
def test_any_text_survives_as_bytes(text: str, size: int) -> None:
    assert _round_trip(ByteTokenizer(), text.encode(), size) == text


@given(text=st.text())
def test_any_text_survives_a_trained_tokenizer(trained: JsonTokenizer, text: str) -> None:
    assert _round_trip(trained, text.encode()) == text


def test_a_trained_tokenizer_needs_fewer_tokens_than_bytes(trained: JsonTokenizer) -> None:
    data = b"the whale and the ship and the sea\n"
    assert trained.vocab_size == 400
    assert sum(len(ids) for ids in trained.encode([data])) < 0.7 * len(data)


def test_characters_come_out_whole(trained: JsonTokenizer) -> None:
    for tokenizer in (ByteTokenizer(), trained):
        decoder = tokenizer.decoder()
        ids = np.concatenate(list(tokenizer.encode(["a🐋b".encode()])))
        pieces = [decoder.feed(int(token_id)) for token_id in ids]
        assert "".join(pieces) == "a🐋b"
        assert "\ufffd" not in "".join(pieces) and pieces.count("🐋") == 1


def test_broken_characters_are_shown_as_such_and_not_held_for_ever(trained: JsonTokenizer) -> None:
    for tokenizer in (ByteTokenizer(), trained):
        decoder = tokenizer.decoder()
        (start,) = np.concatenate(list(tokenizer.encode(["ü".encode()])))[:1]
        shown = "".join(decoder.feed(int(start)) for _ in range(50))
        assert len(shown) > 30 and set(shown) == {"\ufffd"}


@given(st.text(alphabet="ab\nü🐋", max_size=200), st.integers(1, 7), st.integers(1, 20))
def test_blocks_are_the_text_and_stay_small(text: str, size: int, block_size: int) -> None:
    blocks = list(text_blocks(_cut(text.encode(), size), block_size))
    assert "".join(blocks) == text
    assert all(len(block) < block_size + size for block in blocks)


def test_what_is_not_utf8_is_refused_with_its_place(trained: JsonTokenizer) -> None:
    with pytest.raises(InputError, match="near byte 1003"):
        list(trained.encode(_cut(b"a" * 1003 + b"\xff" + b"a" * 10, 100)))
    with pytest.raises(InputError, match="not UTF-8"):
        list(trained.encode(["ü".encode()[:1]]))


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"model": {"type": "BPE"}}', "\0"])
def test_a_file_that_is_no_tokenizer_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"tokenizer\.json"):
        JsonTokenizer(path)


def test_a_folder_without_a_tokenizer_means_bytes(tmp_path: Path, trained: JsonTokenizer) -> None:
    assert isinstance(tokenizer_in(tmp_path), ByteTokenizer)
    (tmp_path / "tokenizer.json").write_text(trained.text)
    assert tokenizer_in(tmp_path).vocab_size == trained.vocab_size


def test_training_twice_gives_the_same_tokenizer() -> None:
    text = b"the whale, the whale, the white whale\n" * 20
    first, second = (train_tokenizer([text], 270) for _ in range(2))
    assert first == second
    assert json.loads(first)["model"]["type"] == "BPE"


@pytest.mark.parametrize("vocab_size", [-1, 0, 256, 2**40])
def test_a_vocabulary_that_cannot_be_is_refused(vocab_size: int) -> None:
    with pytest.raises(InputError, match="vocab_size"):
        train_tokenizer([b"text"], vocab_size)

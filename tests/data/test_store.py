"""A token store gives back the ids that went in, needs little memory, and notices damage."""

import tracemalloc
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from reformer.data.files import InputError
from reformer.data.store import has_store, open_store, smallest_dtype, write_store
from reformer.data.tokenizer import ByteTokenizer, TextDecoder


class _Numbers:
    """Gives the ids 0 … vocab_size - 1 for every chunk."""

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    def encode(self, chunks: Iterable[bytes]) -> Iterator[np.ndarray]:
        for _ in chunks:
            yield np.arange(self.vocab_size)

    def decoder(self) -> TextDecoder:
        return ByteTokenizer().decoder()


@pytest.mark.parametrize(
    ("vocab_size", "dtype"), [(2, "uint8"), (256, "uint8"), (257, "uint16"), (70000, "uint32")]
)
def test_ids_survive_in_the_smallest_type(tmp_path: Path, vocab_size: int, dtype: str) -> None:
    chunks = [b"abc", b"de"]
    write_store(tmp_path, "train", chunks, _Numbers(vocab_size), vocab_size)
    store = open_store(tmp_path, "train")
    assert np.array_equal(store.tokens, np.tile(np.arange(vocab_size), 2))
    assert (str(store.tokens.dtype), store.num_bytes) == (dtype, 5)
    assert smallest_dtype(vocab_size) == dtype


def test_a_large_corpus_needs_little_memory(tmp_path: Path) -> None:
    chunk, count = b"x" * 100_000, 300
    tracemalloc.start()
    store = write_store(tmp_path, "train", (chunk for _ in range(count)), ByteTokenizer(), 256)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(store) == len(chunk) * count
    assert peak < 2_000_000


def test_an_id_beyond_the_vocabulary_is_refused_and_nothing_stays(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="token id 200"):
        write_store(tmp_path, "train", [b"abc", bytes([200])], ByteTokenizer(), 200)
    assert not has_store(tmp_path, "train")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["header", "shorter", "longer", "fields"])
def test_damage_is_noticed(tmp_path: Path, damage: str) -> None:
    write_store(tmp_path, "train", [b"some text"], ByteTokenizer(), 256)
    tokens, header = tmp_path / "train.tokens", tmp_path / "train.json"
    if damage == "header":
        header.write_text("{")
    elif damage == "fields":
        header.write_text('{"dtype": "object"}')
    else:
        tokens.write_bytes(b"some" if damage == "shorter" else b"some text, and more")
    with pytest.raises(InputError, match="train"):
        open_store(tmp_path, "train")

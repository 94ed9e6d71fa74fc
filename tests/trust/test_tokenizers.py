"""Tokenizers lose no text, read or refuse any file, and do no more work per byte on long input."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reformer.data.files import read_file, shipped_novel
from reformer.data.tokenizer import ByteTokenizer, JsonTokenizer, Tokenizer, train_tokenizer
from tests.trust.slots import make_folders
from tests.trust.test_mutations import read_mutated
from tests.trust.tiers import record, tiers

PLANES = ((0, 0x7F), (0x80, 0x2FF), (0x300, 0x36F), (0x590, 0x6FF), (0x2000, 0x206F),
          (0x4E00, 0x9FFF), (0xE000, 0xFFFF), (0x1F000, 0x1FAFF), (0x10000, 0x10FFFF))  # fmt: skip
"""Ranges of characters: ASCII, accents, marks that combine, right to left, signs and spaces
without width, Chinese, private use with the byte order mark, emoji, everything above."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> JsonTokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(train_tokenizer([next(read_file(shipped_novel(), 100_000))], 600))
    return JsonTokenizer(path)


def _text(rng: random.Random) -> str:
    planes = rng.sample(PLANES, rng.randint(1, 4))
    characters = [chr(rng.randint(*rng.choice(planes))) for _ in range(rng.randint(0, 200))]
    return "".join(characters) * rng.choice((1, 1, 3))


def _ids(tokenizer: Tokenizer, data: bytes, size: int) -> list[int]:
    cut = [data[start : start + size] for start in range(0, len(data), size)]
    return [int(i) for i in np.concatenate([np.zeros(0, int), *tokenizer.encode(cut)])]


@tiers(small=300, middle=3000, full=10_000)
def test_random_unicode_comes_back_as_it_was(trained: JsonTokenizer, count: int) -> None:
    for trial in range(count):
        rng = random.Random(trial)
        text, size = _text(rng), rng.randint(1, 300)
        for tokenizer in (ByteTokenizer(), trained):
            decoder = tokenizer.decoder()
            ids = _ids(tokenizer, text.encode(), size)
            back = "".join(decoder.feed(i) for i in ids) + decoder.finish()
            assert back == text, f"trial {trial}, {type(tokenizer).__name__}"
    record("I5", "random Unicode through bytes and a trained tokenizer", count, changed=0)


@pytest.mark.usefixtures("server")
@tiers(small=40, middle=400, full=1500)
def test_a_damaged_tokenizer_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, scratch: Path, count: int
) -> None:
    folders = tmp_path_factory.mktemp("folders")
    make_folders(folders)
    names = ("tokenizer/tokenizer.json", "huggingface/spiece.model", "shards/tokenizer.json")
    found = read_mutated(folders, scratch, names, count)
    assert found["refused"] > count / 10 and found["read"] > 0
    record("I5", "mutated tokenizer files, memory capped at 1 GB", count,
           untyped_errors=0, refused=found["refused"], read=found["read"])  # fmt: skip


class _Counting:
    """A tokenizer of the library that counts what it is given to do."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer, self.characters, self.ids, self.longest = tokenizer, 0, 0, 0

    def encode(self, text: str, **options: Any) -> Any:
        self.characters += len(text)
        self.longest = max(self.longest, len(text))
        return self._tokenizer.encode(text, **options)

    def decode(self, ids: list[int], **options: Any) -> Any:
        self.ids += len(ids)
        return self._tokenizer.decode(ids, **options)


@pytest.mark.parametrize("unit", ["a", "\n", "a\n", "\u0301", "🐋", "\ufffd", "ab "])
def test_work_grows_with_the_text_and_no_faster(trained: JsonTokenizer, unit: str) -> None:
    """However long a word, a line or a row of broken characters is."""
    data = (unit * (1_000_000 // len(unit.encode()))).encode()
    tokenizer = JsonTokenizer(trained.path)
    counting = tokenizer._tokenizer = _Counting(tokenizer._tokenizer)
    ids = _ids(tokenizer, data, 1 << 16)
    assert counting.characters == len(data.decode()) and counting.longest < (1 << 18) + (1 << 16)
    decoder = tokenizer.decoder()
    shown = "".join(decoder.feed(i) for i in ids[:20_000])
    assert shown and counting.ids <= 10 * 20_000

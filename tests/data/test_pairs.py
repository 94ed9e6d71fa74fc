"""Pairs of texts from files to batches: what stands where, and what is said of bad lines."""

import gzip
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from reformer import ReformerConfig
from reformer.data.files import InputError
from reformer.data.pairs import PairSource, pair_rows, read_pairs
from reformer.data.tokenizer import ByteTokenizer

CONFIG = ReformerConfig(vocab_size=257, hidden_size=16, max_length=32)
PAIRS = [('say "hi"', "di «hola»"), ("a", "b"), ("two words", "dos\u2028palabras")]


def _texts(files: list[Path]) -> list[tuple[str, str]]:
    return [(pair.text("source"), pair.text("target")) for pair in read_pairs(files)]


def test_every_format_says_the_same(tmp_path: Path) -> None:
    """Quotes in tab-separated lines are letters like others."""
    lines = "".join(f"{source}\t{target}\r\n" for source, target in PAIRS) + "\n"
    (tmp_path / "a.tsv").write_bytes(lines.encode())
    (tmp_path / "b.tsv.gz").write_bytes(gzip.compress(lines.encode()))
    records = [json.dumps({"source": s, "target": t, "id": 3}) for s, t in PAIRS]
    (tmp_path / "c.jsonl").write_text("\n".join(records))
    (tmp_path / "d.csv").write_text('source,target\n"say ""hi""",di «hola»\na,b\n')
    for name in ("a.tsv", "b.tsv.gz", "c.jsonl"):
        assert _texts([tmp_path / name]) == PAIRS
    assert _texts([tmp_path / "d.csv"]) == PAIRS[:2]
    assert _texts([tmp_path / "a.tsv", tmp_path / "d.csv"]) == PAIRS + PAIRS[:2]


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.tsv", "a\tb\n\nc\n", "a.tsv, line 3: it has 1 fields between tabs"),
        ("a.tsv", "a\tb\tc\n", "a.tsv, line 1: it has 3 fields"),
        ("a.tsv", "a\tb\nc\t\n", "a.tsv, line 2: target is '': it must be a string"),
        ("a.tsv", "\n\n", "holds no pairs"),
        ("a.jsonl", '{"source": "a"}', "a.jsonl, line 1: target is None"),
        (
            "a.jsonl",
            '{"source": "a", "target": "b"}\n{"source": 3, "target": "b"}',
            "line 2: source",
        ),
        ("a.jsonl", "a\tb", "a.jsonl, line 1: it is not JSON"),
        ("a.txt", "a\tb", "a.txt must be .tsv"),
    ],
)
def test_bad_lines_are_named(name: str, text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=reason):
        read_pairs([tmp_path / name])


def test_a_text_that_is_too_long_is_named_and_what_would_be_enough(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("a\tb\n" + "c" * 32 + "\td\n" + "e\t" + "f" * 40 + "\n")
    pairs = read_pairs([tmp_path / "a.tsv"])
    with pytest.raises(InputError, match=r"line 2: the source has 33 tokens .* --length 41"):
        pair_rows(pairs, ByteTokenizer(), CONFIG)
    pair_rows(pairs, ByteTokenizer(), replace(CONFIG, max_length=41))


def _source(tmp_path: Path, count: int, batch_size: int) -> PairSource:
    lines = [f"{'s' * (1 + 7 * n % 20)}{n}\t{'t' * (1 + 5 * n % 17)}{n}\n" for n in range(count)]
    (tmp_path / "a.tsv").write_text("".join(lines))
    pairs = read_pairs([tmp_path / "a.tsv"])
    return PairSource(pairs, pair_rows(pairs, ByteTokenizer(), CONFIG), batch_size, seed=1)


def test_a_batch_holds_both_sides_with_their_marks_and_padding(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("ab\tc\nd\tefg\n")
    pairs = read_pairs([tmp_path / "a.tsv"])
    source = PairSource(pairs, pair_rows(pairs, ByteTokenizer(), CONFIG), 2, seed=0)
    batch = source.batch(0, 2)
    short = int(batch["segment_ids"][1, -1] == -1)  # the row of the second pair
    assert batch["input_ids"][1 - short].tolist() == [97, 98, 256]
    assert batch["input_ids"][short].tolist() == [100, 256, 0]
    assert batch["segment_ids"][short].tolist() == [0, 0, -1]
    assert batch["target_ids"][short].tolist() == [101, 102, 103, 256]
    assert batch["labels"][1 - short].tolist() == [99, 256, -100, -100]


def test_an_epoch_shows_each_pair_once_in_batches_of_like_length(tmp_path: Path) -> None:
    source = _source(tmp_path, 83, 8)
    batches = [source.batch(first, 8) for first in range(0, 80, 8)]
    shown = [tuple(row.tolist()) for b in batches for row in b["target_ids"]]
    texts = {bytes(i for i in ids[: ids.index(256)]) for ids in shown}
    assert len(texts) == len(shown) == 80
    size = sum(b["input_ids"].numel() + b["target_ids"].numel() for b in batches)
    tokens = sum(
        int((b["labels"] != -100).sum())
        + int((b.get("segment_ids", b["input_ids"] * 0) == 0).sum())
        for b in batches
    )
    assert size < 1.5 * tokens
    totals = [int((b["labels"] != -100).sum()) + b["input_ids"].numel() for b in batches]
    rises = sum(one < other for one, other in pairwise(totals))
    assert rises < len(batches) - 2, "the batches come in order of length"


def test_a_batch_is_a_function_of_the_seed_and_its_number(tmp_path: Path) -> None:
    first, second = _source(tmp_path, 83, 8), _source(tmp_path, 83, 8)
    second.batch(240, 8)
    for number in (0, 72, 80, 400):
        one, other = first.batch(number, 8), second.batch(number, 8)
        assert all(torch.equal(one[name], other[name]) for name in one)
    halves = [first.batch(16, 4)["labels"], first.batch(20, 4)["labels"]]
    assert [row.tolist() for half in halves for row in half] != first.batch(24, 8)[
        "labels"
    ].tolist()
    few = _source(tmp_path, 3, 8)
    assert few.batch(0, 8)["input_ids"].shape[0] == 8

"""Words are tagged: from CoNLL's columns to spans, whatever the tokens are."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reformer import ConfigError, Labels, Local, ReformerConfig, ReformerForTokenClassification
from reformer.data.tagged import (
    Sentence,
    TaggedSource,
    keep_tagged,
    kept_tagged,
    read_tagged,
    tag_labels,
    tagged_rows,
)
from reformer.data.tokenizer import ByteTokenizer, JsonTokenizer, train_tokenizer
from reformer.training.scores import span_f1, spans
from tests.cli.conftest import call

SMALL = ("--preset", "tiny", "--length", "64", "--evaluate-tokens", "2000", "--batch-size", "8")
NAMES = ("Ahab", "Emma", "Queequeg")
OTHERS = ("saw", "the", "whale", "in", "spring")


def _sentence(draw: random.Random) -> Sentence:
    words, tags = [], []
    for _ in range(draw.randint(2, 6)):
        if draw.random() < 0.4:
            words += [draw.choice(NAMES), "Smith"]
            tags += ["B-PER", "I-PER"]
        else:
            words.append(draw.choice(OTHERS))
            tags.append("O")
    return Sentence(tuple(words), tuple(tags))


def _sentences(count: int, seed: int) -> list[Sentence]:
    draw = random.Random(seed)
    return [_sentence(draw) for _ in range(count)]


def _conll(sentences: list[Sentence]) -> str:
    parts = ["-DOCSTART- -X- O"]
    for sentence in sentences:
        pairs = zip(sentence.words, sentence.tags, strict=True)
        parts.append("\n".join(f"{word} NN {tag}" for word, tag in pairs))
    return "\n\n".join(parts)


def test_both_formats_say_the_same(tmp_path: Path) -> None:
    sentences = _sentences(10, 1)
    first, second = tmp_path / "a.conll", tmp_path / "b.jsonl"
    first.write_text(_conll(sentences))
    second.write_text(
        "".join(json.dumps({"tokens": s.words, "tags": s.tags}) + "\n" for s in sentences)
    )
    assert read_tagged([first]) == read_tagged([second]) == sentences
    keep_tagged(tmp_path, "kept", sentences)
    assert kept_tagged(tmp_path, "kept") == sentences


@pytest.mark.parametrize("kind", ["bytes", "json"])
@pytest.mark.parametrize("length", [12, 64])
def test_every_token_has_its_words_tag(kind: str, length: int, tmp_path: Path) -> None:
    sentences = [*_sentences(20, 2), Sentence(("Ångström", "é", "x"), ("B-PER", "O", "O"))]
    tokenizer: ByteTokenizer | JsonTokenizer = ByteTokenizer()
    if kind == "json":
        path = tmp_path / "tokenizer.json"
        text = " ".join(word for s in sentences for word in s.words).encode()
        path.write_text(train_tokenizer([text], 290), encoding="utf-8")
        tokenizer = JsonTokenizer(path)
    for sentence in sentences:
        rows = tagged_rows(sentence, tokenizer, length)
        assert sum((row.tags for row in rows), ()) == sentence.tags
        found = []
        for row in rows:
            assert len(row) <= length
            for word in range(len(row.tags)):
                decoder = tokenizer.decoder()
                ids = row.input_ids[row.words == word].tolist()
                found.append("".join([*map(decoder.feed, ids), decoder.finish()]).strip())
        assert tuple(found) == sentence.words


def test_labels_are_those_of_the_words() -> None:
    sentence = Sentence(("Ahab", "saw"), ("B-PER", "O"))
    source = TaggedSource([sentence], tag_labels([sentence]), ByteTokenizer(), 32, seed=0)
    batch = source.batch(0, 2)
    assert batch["labels"][1].tolist() == [0] * len("Ahab ") + [1] * len("saw")


def test_spans_are_counted_as_conll_counts_them() -> None:
    tags = ["B-PER", "I-PER", "B-PER", "O", "I-ORG", "I-PER"]
    assert spans(tags) == {("PER", 0, 2), ("PER", 2, 3), ("ORG", 4, 5), ("PER", 5, 6)}
    assert spans(["O", "O"]) == spans([]) == set()
    assert span_f1([["B-A", "I-A", "O"]], [["B-A", "O", "O"]]) == 0
    assert span_f1([["B-A", "O", "B-B"]], [["B-A", "O", "O"]]) == pytest.approx(2 / 3)
    assert span_f1([["O"]], [["O"]]) == 1


def test_padding_does_not_count_and_changes_nothing() -> None:
    config = ReformerConfig(
        hidden_size=16, num_heads=1, head_size=8, max_length=32, causal=False,
        labels=Labels(3), layers=(Local(4),),
    )  # fmt: skip
    model = ReformerForTokenClassification(config).double().eval()
    ids = torch.from_numpy(np.arange(10)[None])
    labels = ids % 3
    loss = model(ids, labels).loss.detach()
    padded = torch.nn.functional.pad(ids, (0, 4))
    segments = torch.nn.functional.pad(torch.zeros_like(ids), (0, 4), value=-1)
    wanted = torch.nn.functional.pad(labels, (0, 4), value=-100)
    assert (model(padded, wanted, segment_ids=segments).loss.detach() - loss).abs() < 1e-9
    with pytest.raises(ConfigError, match="labels is None"):
        ReformerForTokenClassification(ReformerConfig(causal=False))


def test_a_model_learns_to_tag(tmp_path: Path) -> None:
    file, unseen = tmp_path / "a.conll", tmp_path / "b.conll"
    file.write_text(_conll(_sentences(200, 1)))
    unseen.write_text(_conll(_sentences(30, 2)))
    run = tmp_path / "run"
    trained = call("train", file, "--task", "tag", *SMALL, "--steps", 60, "--out", run)
    assert trained.code == 0, trained.err
    scored = call("evaluate", run, unseen, "--json")
    scores = json.loads(scored.out)
    assert scores["span_f1"] >= 0.9 and scores["accuracy"] >= 0.95
    assert set(scores["confusion_matrix"]) == {"B-PER", "I-PER", "O"}
    unseen.write_text("saw O\n\n\nAhab B-LOC\n")
    refused = call("evaluate", run, unseen)
    assert refused.code == 2
    assert f"{unseen}, line 4: the sentence's tag 'B-LOC' is not one that" in refused.err


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.conll", "Ahab B-PER\nsaw\n", "a.conll, line 2: it has a word and no tag"),
        ("a.conll", "\n\n", "holds no tagged words"),
        ("a.conll", "a O\n\nb O\n", "a.conll, line 1 and on: all words have the tag 'O'"),
        ("a.conll", "a O\nb B-X\n", "a.conll, line 1: it is the only sentence"),
        (
            "a.conll",
            "a O\nb B-X\n\n" + "c" * 70 + " O\n",
            "a.conll, line 4: the sentence's word 'ccc",
        ),
        ("a.jsonl", '{"tokens": ["a"], "tags": ["O", "O"]}', "line 1: it has 1 tokens and 2 tags"),
        ("a.jsonl", '{"tokens": ["a", 3], "tags": ["O", "O"]}', "line 1: tokens must be a list"),
    ],
)
def test_bad_files_end_in_a_sentence(name: str, text: Any, reason: str, tmp_path: Path) -> None:
    file, out = tmp_path / name, tmp_path / "run"
    file.write_text(text)
    answer = call("train", file, "--task", "tag", *SMALL, "--steps", 1, "--out", out)
    assert answer.code == 2
    assert reason in answer.err
    assert not out.exists()

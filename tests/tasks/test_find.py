"""Passages of any text are questions about it: drawn, learned, and handed on to the qa task."""

import json
import random
from pathlib import Path

import pytest

from reformer import LSH, Local, ReformerConfig
from reformer.data.files import InputError
from reformer.data.passages import Passages, PassageSource, read_documents
from reformer.data.reading import Reader
from reformer.data.tokenizer import ByteTokenizer
from tests.cli.conftest import call

WORDS = ("whale", "ship", "mast", "horse", "field", "barn", "king", "queen", "crown", "bridge")
SIZES = ("--hidden-size", 32, "--axial-sizes", 16, 16, "--head-size", 16, "--length", 128)


def _documents(count: int, seed: int, words: int = 40) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=words)) for _ in range(count)]


def _reader(length: int = 128) -> Reader:
    config = ReformerConfig(
        hidden_size=16, num_heads=1, head_size=8, max_length=length, causal=False,
        layers=(Local(4), LSH(2, 8)), axial_shape=(32, 32),
    )  # fmt: skip
    return Reader(ByteTokenizer(), config)


def test_a_passage_stands_in_its_document_and_fits_a_question() -> None:
    documents = [
        "Tvåhundra  år\nsedan: " + "blåbär ☂\t" * 30,
        "short",
        "x" * 70 + " yes " * 20,
        *_documents(3, 1),
    ]
    reader = _reader()
    passages = Passages(documents, reader)
    seen = set()
    for seed in range(300):
        question = passages.draw(seed)
        ((answer, start),) = question.answers
        text = documents[question.document]
        assert answer and text[start : start + len(answer)] == answer
        assert start == 0 or text[start - 1].isspace()
        assert len(reader.question(question.text)) <= reader.most_question
        # The question is the passage but for a few words, in its order.
        remaining = iter(answer.split())
        assert all(word in remaining for word in question.text.split())
        seen.add(question.document)
    assert seen == set(range(len(documents)))


def test_questions_leave_out_some_words() -> None:
    passages = Passages(_documents(20, 1), _reader(512))
    pairs = [(q.text, q.answers[0][0]) for q in map(passages.draw, range(300))]
    shares = sum(len(t.split()) for t, _ in pairs) / sum(len(a.split()) for _, a in pairs)
    assert 0.85 < shares < 0.95


def test_sequences_are_functions_of_their_number() -> None:
    documents = _documents(5, 1, words=80)
    whole = PassageSource(documents, _reader(), seed=3).batch(0, 12)
    tail = PassageSource(documents, _reader(), seed=3).batch(8, 4)
    assert whole["start_positions"][8:].equal(tail["start_positions"])
    other = PassageSource(documents, _reader(), seed=4).batch(0, 12)
    assert not whole["start_positions"].equal(other["start_positions"])


def test_documents_are_files_records_and_contexts(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one text")
    (tmp_path / "b.jsonl").write_text('{"text": "two"}\n{"text": " "}\n{"text": "three"}\n')
    squad = {"data": [{"paragraphs": [{"context": "four", "qas": [
        {"question": "?", "answers": []}]}]}]}  # fmt: skip
    (tmp_path / "c.json").write_text(json.dumps(squad))
    files = [tmp_path / name for name in ("a.txt", "b.jsonl", "c.json")]
    assert read_documents(files) == ["one text", "two", "three", "four"]
    (tmp_path / "d.txt").write_text(" \n")
    with pytest.raises(InputError, match="no text"):
        read_documents([tmp_path / "d.txt"])


def test_what_is_found_can_be_asked_for_and_starts_a_model_of_questions(tmp_path: Path) -> None:
    text = tmp_path / "text.jsonl"
    lines = [json.dumps({"text": document}) + "\n" for document in _documents(60, 1, words=12)]
    text.write_text("".join(lines))
    run = tmp_path / "find"
    steps = ("--steps", 4, "--batch-size", 4, "--evaluate-tokens", 2000)
    learned = call("train", text, "--task", "find", "--layers", "local", "lsh", *SIZES, *steps,
                   "--out", run)  # fmt: skip
    assert learned.code == 0, learned.err
    assert "57 documents" in learned.out
    scores = json.loads(call("evaluate", run, text, "--json").out)
    assert 0 <= scores["exact_match"] <= scores["f1"] <= 100
    document = tmp_path / "document.txt"
    document.write_text(_documents(1, 5)[0])
    assert set(json.loads(call("ask", run, document, "whale ship", "--json").out)) >= {"answer"}

    context = _documents(1, 9)[0]
    answer = context.split()[3]
    qas = [{"question": "Which?", "answers": [
        {"text": answer, "answer_start": context.index(answer)}]}]  # fmt: skip
    squad = {"data": [{"paragraphs": [{"context": context, "qas": qas}]}] * 2}
    questions = tmp_path / "squad.json"
    questions.write_text(json.dumps(squad))
    second = call("train", questions, "--task", "qa", "--init", run, "--layers", "local", "lsh",
                  *SIZES, "--steps", 2, "--out", tmp_path / "qa")  # fmt: skip
    assert second.code == 0, second.err


def test_a_single_text_is_split_and_one_too_short_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "t.txt"
    train = ("train", text, "--task", "find", "--preset", "tiny", "--length", 64, "--steps", 1,
             "--evaluate-tokens", 500)  # fmt: skip
    text.write_text("word")
    answered = call(*train, "--out", tmp_path / "short")
    assert answered.code == 2 and "too short" in answered.err
    text.write_text(_documents(1, 1, words=200)[0])
    answered = call(*train, "--out", tmp_path / "run")
    assert answered.code == 0, answered.err
    kept = [
        json.loads((tmp_path / "run" / "data" / f"{name}.jsonl").read_text())["text"]
        for name in ("train", "validation")
    ]
    assert "".join(kept) == text.read_text()
    text.write_bytes(b"word\nword \xff word\n")
    answered = call(*train, "--out", tmp_path / "bad")
    assert answered.code == 2 and "line 2: it is not UTF-8" in answered.err
    assert call("train", "--task", "find").code == 2

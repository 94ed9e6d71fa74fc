"""Questions are answered from documents: SQuAD's files, spans, scores; from training to ask."""

import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from reformer import LSH, Local, ReformerConfig, ReformerForQuestionAnswering
from reformer.data.reading import QuestionSource, Reader
from reformer.data.squad import Question, Questions, exact_match, f1, normalize, read_squad
from reformer.data.tokenizer import ByteTokenizer, JsonTokenizer, train_tokenizer
from reformer.generation.answering import answer, best_span
from tests.cli.conftest import call

SMALL = ("--preset", "tiny", "--length", "128", "--evaluate-tokens", "2000", "--batch-size", "4")
STORY = "Ångström saw a wéłl in Århus.\nThen he went home, to Uppsala, in 1850."


def _squad(paragraphs: list[tuple[str, list[tuple[str, str | None]]]]) -> dict[str, Any]:
    """SQuAD's JSON of contexts with (question, answer or None)."""
    data = []
    for number, (context, questions) in enumerate(paragraphs):
        qas = [
            {
                "id": f"{number}-{place}",
                "question": question,
                "is_impossible": wanted is None,
                "answers": []
                if wanted is None
                else [{"text": wanted, "answer_start": context.index(wanted)}],
            }
            for place, (question, wanted) in enumerate(questions)
        ]
        data.append({"title": str(number), "paragraphs": [{"context": context, "qas": qas}]})
    return {"version": "2.0", "data": data}


def _write(path: Path, values: Any) -> Path:
    path.write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")
    return path


@pytest.fixture
def story(tmp_path: Path) -> Path:
    questions = [("Where was the well?", "Århus"), ("When?", "1850"), ("Who is Bo?", None)]
    return _write(tmp_path / "story.json", _squad([(STORY, questions), (STORY, questions)]))


@pytest.fixture(params=["bytes", "json"])
def tokenizer(request: Any, tmp_path: Path) -> ByteTokenizer | JsonTokenizer:
    if request.param == "bytes":
        return ByteTokenizer()
    path = tmp_path / "tokenizer.json"
    path.write_text(train_tokenizer([STORY.encode() * 3], 280), encoding="utf-8")
    return JsonTokenizer(path)


def _config(length: int) -> ReformerConfig:
    return ReformerConfig(
        vocab_size=300, hidden_size=16, num_heads=1, head_size=8, max_length=length, causal=False,
        layers=(Local(4), LSH(2, 8)), axial_shape=(16, 16),
    )  # fmt: skip


def test_labels_cover_the_answer_in_whole_documents_and_in_parts(
    story: Path, tokenizer: ByteTokenizer | JsonTokenizer
) -> None:
    questions = read_squad([story])
    wanted = {q.text: (q.answers or (("", 0),))[0][0] for q in questions.questions}
    for length in (200, 60):
        reader = Reader(tokenizer, _config(length))
        batch = QuestionSource(questions, reader, seed=1).batch(0, 24)
        assert batch["input_ids"].shape[1] <= length
        for ids, start, end in zip(
            batch["input_ids"], batch["start_positions"], batch["end_positions"], strict=True
        ):
            decoder = tokenizer.decoder()
            pieces = [decoder.feed(i) for i in ids.tolist()]
            question, _, part = "".join(pieces).partition("\x02")
            answer = wanted[question.lstrip("\x01")]
            if (start, end) == (0, 0):
                assert not answer or (length == 60 and answer not in part)
                continue
            span = tokenizer.decoder()
            text = "".join(span.feed(i) for i in ids[start : end + 1].tolist())
            assert text.strip() == answer


def test_one_part_in_four_holds_no_answer_and_the_others_hold_all_of_it() -> None:
    text = "".join(random.Random(1).choices("abcdefgh", k=70))
    spans = {"one": [(30, 33)], "two": [(50, 54), (20, 21)], "none": []}
    asked = [
        Question("", name, 0, tuple((text[start:end], start) for start, end in places))
        for name, places in spans.items()
    ]
    source = QuestionSource(Questions([text], asked), Reader(ByteTokenizer(), _config(30)), seed=1)
    without: dict[str, list[int]] = {name: [] for name in spans}
    answered: dict[str, list[int]] = {name: [] for name in spans}
    for number in range(1500):
        row = source.batch(number, 1)
        question, _, part = bytes(row["input_ids"][0].tolist()).decode().partition("\x02")
        name, first = question[1:], text.index(part)
        start, end = int(row["start_positions"]), int(row["end_positions"])
        if (start, end) == (0, 0):
            without[name].append(first)
            held = range(first, first + len(part))
            assert not any(place in held for span in spans[name] for place in range(*span))
        else:
            answered[name].append(first)
            shift = first - len(question) - 1
            assert (start + shift, end + 1 + shift) == spans[name][0]
    assert not answered["none"]
    for name in ("one", "two"):
        share = len(without[name]) / (len(without[name]) + len(answered[name]))
        assert 0.2 < share < 0.3
    # Of both kinds, every part is drawn; one has 25 of the 70 tokens.
    assert set(answered["one"]) == {*range(33 - 25, 30 + 1)}
    assert set(without["one"]) == {*range(30 - 25 + 1), *range(33, 70 - 25 + 1)}


def test_a_whole_document_always_has_its_answer(story: Path) -> None:
    questions = read_squad([story])
    source = QuestionSource(questions, Reader(ByteTokenizer(), _config(200)), seed=1)
    answers = sum(bool(question.answers) for question in questions.questions)
    for epoch in range(30):
        batch = source.batch(epoch * len(questions.questions), len(questions.questions))
        assert int((batch["start_positions"] > 0).sum()) == answers


def test_a_part_of_a_document_keeps_its_place(story: Path) -> None:
    reader = Reader(ByteTokenizer(), _config(60))
    ids, document = reader.question("When?"), reader.document(STORY)
    whole = Reader(ByteTokenizer(), _config(200)).page(ids, document)
    pages = reader.pages(ids, document)
    assert len(pages) > 1
    seen = set()
    for page in pages:
        assert len(page) <= 60
        places = page.positions[page.question_length :]
        inside = slice(page.first + len(ids), page.first + len(page))
        assert (places == whole.positions[inside]).all()
        assert (page.input_ids[len(ids) :] == whole.input_ids[inside]).all()
        seen |= set(places.tolist())
    assert len(seen) == len(document)
    assert not seen & set(whole.positions[: len(ids)].tolist())


def test_sequences_are_functions_of_their_number(story: Path) -> None:
    source = QuestionSource(read_squad([story]), Reader(ByteTokenizer(), _config(60)), seed=1)
    whole, tail = source.batch(0, 20), source.batch(15, 5)
    for name in ("start_positions", "end_positions", "positions"):
        width = tail[name].shape[1:]
        part = whole[name][15:] if not width else whole[name][15:, : width[0]]
        assert torch.equal(part, tail[name])


@pytest.mark.parametrize("longest", [1, 3, 50])
def test_the_best_span_is_the_best_of_all_valid_ones(longest: int) -> None:
    for seed in range(20):
        start, end = torch.randn(2, 24, generator=torch.Generator().manual_seed(seed))
        found = best_span(start, end, longest)
        spans = [(i, j) for i in range(24) for j in range(i, min(24, i + longest))]
        assert found == max(spans, key=lambda span: float(start[span[0]] + end[span[1]]))


class _Pointing(ReformerForQuestionAnswering):
    """Points at the text ``wanted``, or at no answer."""

    wanted = b""

    def forward(self, input_ids: Any, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(input_ids, *args, **kwargs)
        output.start_logits.fill_(-9.0)
        output.end_logits.fill_(-9.0)
        for row, ids in enumerate(input_ids.tolist()):
            place = bytes(ids).find(self.wanted) if self.wanted else -1
            last = place + len(self.wanted) - 1 if place >= 0 else 0
            output.start_logits[row, max(0, place)] = 9.0
            output.end_logits[row, last] = 9.0
        return output


@pytest.mark.parametrize("length", [40, 256])
def test_an_answer_is_found_wherever_it_stands(length: int) -> None:
    model = _Pointing(_config(length)).eval()
    for wanted in ("Ångström", "Århus", "1850", "home, to"):
        model.wanted = wanted.encode()
        found = answer(model, ByteTokenizer(), STORY, "Which?")
        assert found.text == wanted
        assert STORY[found.start : found.end] == wanted
        assert found.confidence > 0.99
    model.wanted = b""
    found = answer(model, ByteTokenizer(), STORY, "Which?")
    assert (found.text, found.confidence > 0.99) == ("", True)
    # A question is no place for its own answer.
    model.wanted = b"Which"
    assert answer(model, ByteTokenizer(), STORY, "Which?").text != "Which"


class _Scoring(ReformerForQuestionAnswering):
    """Scores letters as ends by ``scores``, and no answer by the digit on the page."""

    scores: dict[str, float]

    def forward(self, input_ids: Any, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(input_ids, *args, **kwargs)
        for logits in output[:2]:
            logits.fill_(-50.0)
            for row, ids in enumerate(input_ids.tolist()):
                page = bytes(ids).decode()
                logits[row, 0] = sum(float(letter) for letter in page if letter.isdigit())
                for letter, score in self.scores.items():
                    for place in (i for i, found in enumerate(page) if found == letter):
                        logits[row, place] = score
        return output


def test_answers_on_different_pages_are_compared_by_how_far_they_are_above_no_answer() -> None:
    model = _Scoring(_config(24)).eval()
    reader = Reader(ByteTokenizer(), model.config)
    document = "DA 9" + "." * 40 + "B 1" + "." * 40 + "C"
    chance = math.log(len(reader.pages(reader.question("?"), reader.document(document))))
    assert chance > 1.5
    for scores, best in (
        ({"A": 10.5, "B": 3.0}, "B"),
        ({"A": 10.5, "B": 2.25}, "A"),
        # A rival on its own page makes an answer less sure, and no other page's a better one.
        ({"A": 10.6, "D": 10.55, "B": 2.5}, "A"),
        ({"A": 10.5, "B": 3.0, "C": 2.5}, "C"),
        ({"A": 8.5, "B": 0.5, "C": -0.5}, ""),
        # Of so many pages, some may be a little above by chance.
        ({"C": chance / 2 - 0.05}, ""),
        ({"C": chance / 2 + 0.05}, "C"),
        ({}, ""),
    ):
        model.scores = scores
        found = answer(model, ByteTokenizer(), document, "?")
        assert found.text == best
        assert document[found.start : found.end] == best
        assert 0 < found.confidence <= 1


def test_pages_share_one_softmax() -> None:
    model = _Scoring(_config(24)).eval()
    reader = Reader(ByteTokenizer(), model.config)
    document = "." * 50 + "A" + "." * 20 + "B" + "." * 50
    pages = reader.pages(reader.question("?"), reader.document(document))
    num_pages = {
        letter: sum(letter.encode() in bytes(page.input_ids.tolist()) for page in pages)
        for letter in "AB"
    }
    assert set(num_pages.values()) == {2}
    model.scores = {"A": 4.0, "B": 3.0}
    # Each end of the answer is a softmax of its own: both, one or none of them at "no answer".
    total = sum(2 * (1 + math.exp(score)) ** 2 for score in model.scores.values())
    total += len(pages) - 4
    found = answer(model, ByteTokenizer(), document, "?")
    assert found.text == "A"
    assert found.confidence == pytest.approx(2 * math.exp(8.0) / total, rel=1e-6)
    model.scores = {"A": 0.5}
    total = 2 * (1 + math.exp(0.5)) ** 2 + len(pages) - 2
    found = answer(model, ByteTokenizer(), document, "?")
    assert found.text == ""
    assert found.confidence == pytest.approx(len(pages) / total, rel=1e-6)


def test_pages_leave_no_answer_out_and_little_is_read_twice() -> None:
    config = replace(_config(60), max_length=8192, axial_shape=(128, 128))
    reader = Reader(ByteTokenizer(), config)
    question, document = reader.question("When?"), reader.document("x" * 60000)
    pages = reader.pages(question, document)
    ends = [page.first + len(page) - page.question_length for page in pages]
    assert pages[0].first == 0 and ends[-1] == 60000
    assert all(end - page.first >= 512 for end, page in zip(ends, pages[1:], strict=False))
    assert sum(map(len, pages)) < 1.2 * 60000


def test_scores_are_those_of_squads_script() -> None:
    assert normalize("The  Cat, (a) 'dog'!") == "cat dog"
    assert exact_match("the Århus", ["Uppsala", "Århus."]) == 1
    assert exact_match("in Århus", ["Århus"]) == 0
    assert f1("in Århus today", ["Århus"]) == pytest.approx(2 * (1 / 3) / (1 / 3 + 1))
    assert f1("b b c", ["b c c d", "x"]) == pytest.approx(2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4))
    assert (exact_match("", []), f1("", [])) == (1, 1)
    assert (exact_match("cat", []), f1("cat", []), f1("", ["cat"])) == (0, 0, 0)
    assert f1("the", ["a"]) == 1


def test_what_is_kept_is_what_was_read(story: Path, tmp_path: Path) -> None:
    questions = read_squad([story])
    questions.keep(tmp_path, "train")
    assert Questions.kept(tmp_path, "train") == questions
    second = questions.on_documents(1, 2)
    assert {q.document for q in second.questions} == {0} and len(second.questions) == 3


def _marked(count: int, seed: int) -> dict[str, Any]:
    """Texts in which the answer is the number; some have none."""
    draw = random.Random(seed)
    paragraphs: list[tuple[str, list[tuple[str, str | None]]]] = []
    for _ in range(count):
        word = "".join(draw.choices("abcde ", k=draw.randint(12, 30)))
        number = str(draw.randint(100, 999)) if draw.random() < 0.75 else None
        paragraphs.append((f"{word}{number or 'x'}{word[::-1]}", [("Number?", number)]))
    return _squad(paragraphs)


def test_a_model_learns_to_answer_and_to_say_that_there_is_no_answer(tmp_path: Path) -> None:
    file, unseen = (
        _write(tmp_path / f"{n}.json", _marked(count, n)) for n, count in ((1, 800), (2, 90))
    )
    run = tmp_path / "run"
    sizes = ("--hidden-size", 32, "--axial-sizes", 16, 16, "--head-size", 16, "--length", 128)
    steps = ("--steps", 200, "--learning-rate", "5e-3", "--evaluate-tokens", 2000)
    answered = call("train", file, "--task", "qa", "--layers", "local", "lsh", *sizes, *steps,
                    "--out", run)  # fmt: skip
    assert answered.code == 0, answered.err
    assert "760 questions on 760 documents" in answered.out
    scored = call("evaluate", run, unseen, "--json")
    assert scored.code == 0, scored.err
    scores = json.loads(scored.out)
    assert scores["exact_match"] >= 80
    assert scores["f1"] >= scores["exact_match"]
    assert scores["unanswerable_exact_match"] >= 80

    document = tmp_path / "document.txt"
    document.write_text("abc cab\ncab 123 eda dea\n")
    found = json.loads(call("ask", run, document, "Number?", "--json").out)
    assert found["answer"] == "123" and found["line"] == 2
    assert document.read_text()[found["start"] : found["end"]] == "123"
    assert 0 < found["confidence"] <= 1
    assert "line 2" in call("ask", run, document, "Number?").out
    long = call("ask", run, document, "Number? " * 40)
    assert long.code == 2 and "a question may have" in long.err


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda v: "{", "line 1: it is not JSON"),
        (lambda v: {}, "json is not in SQuAD's format: data must be a list"),
        (lambda v: {"data": [{}]}, "data[0] is not in SQuAD's format: paragraphs"),
        (lambda v: {"data": []}, "holds no questions"),
        (lambda v: "[" * 100000, "nested too deeply"),
        (lambda v: '{"data":\n[,', "line 2: it is not JSON"),
        (lambda v: v["data"][1]["paragraphs"][0].pop("context") and v, "data[1].paragraphs[0]"),
        (
            lambda v: v["data"][0]["paragraphs"][0]["qas"].append("Where?") or v,
            "data[0].paragraphs[0].qas[3] is not in SQuAD's format: question must be",
        ),
        (
            lambda v: v["data"][0]["paragraphs"][0]["qas"][1].update(answers="1850") or v,
            "data[0].paragraphs[0].qas[1] is not in SQuAD's format: answers must be a list",
        ),
        (
            lambda v: v["data"][0]["paragraphs"][0]["qas"][1]["answers"].append("1850") or v,
            "qas[1].answers[1] is not in SQuAD's format: text must be",
        ),
        (
            lambda v: (
                v["data"][0]["paragraphs"][0]["qas"][1]["answers"][0].update(answer_start=3) or v
            ),
            "data[0].paragraphs[0].qas[1].answers[0]: the context does not have '1850'",
        ),
        (
            lambda v: v["data"][0]["paragraphs"][0]["qas"][0].update(answers=[]) or v,
            "qas[0]: is_impossible is False, with 0 answers",
        ),
        (lambda v: {"data": v["data"][:1]}, "on another to validate on"),
    ],
)
def test_bad_files_end_in_a_sentence_that_names_the_place(
    change: Any, reason: str, story: Path, tmp_path: Path
) -> None:
    changed = change(json.loads(story.read_text()))
    file = tmp_path / "bad.json"
    file.write_text(changed if isinstance(changed, str) else json.dumps(changed))
    out = tmp_path / "run"
    answered = call("train", file, "--task", "qa", *SMALL, "--steps", 1, "--out", out)
    assert answered.code == 2
    assert reason in answered.err
    assert not out.exists()

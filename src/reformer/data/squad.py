"""Questions on documents in SQuAD's JSON, versions 1.1 and 2.0, and how its script scores them.

{"data": [{"title", "paragraphs": [{"context", "qas": [{"id", "question", "is_impossible",
"answers": [{"text", "answer_start"}]}]}]}]}; a question without answers is unanswerable.
"""

import json
import re
import string
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reformer.data.files import InputError
from reformer.data.records import keep_records, kept_records, read_text

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class Question:
    """A question on document number ``document``; without answers it cannot be answered."""

    id: str
    text: str
    document: int
    answers: tuple[tuple[str, int], ...]
    """Each right answer, and the character at which it starts."""


@dataclass(frozen=True)
class Questions:
    """Questions, and the documents that they are on."""

    documents: list[str]
    questions: list[Question]

    def on_documents(self, first: int, end: int) -> "Questions":
        """The questions on documents number ``first`` to ``end``, and these documents."""
        kept = [q for q in self.questions if first <= q.document < end]
        moved = [Question(q.id, q.text, q.document - first, q.answers) for q in kept]
        return Questions(self.documents[first:end], moved)

    def keep(self, folder: Path, name: str) -> None:
        """Write them into a run's data folder."""
        keep_records(folder, f"{name}-documents", [{"text": text} for text in self.documents])
        keep_records(folder, f"{name}-questions", [vars(q) for q in self.questions])

    @classmethod
    def kept(cls, folder: Path, name: str) -> "Questions":
        """What ``keep`` wrote."""
        documents = [record.fields["text"] for record in kept_records(folder, f"{name}-documents")]
        questions = []
        for record in kept_records(folder, f"{name}-questions"):
            answers = tuple((text, start) for text, start in record.fields["answers"])
            questions.append(Question(**{**record.fields, "answers": answers}))
        return cls(documents, questions)


def read_squad(files: Sequence[Path]) -> Questions:
    """The questions of SQuAD-format files; InputError names the file and the place in it."""
    documents: list[str] = []
    questions: list[Question] = []
    for file in files:
        for place, paragraph in _paragraphs(file):
            context = _text(paragraph, "context", place)
            for number, qa in enumerate(_list(paragraph, "qas", place)):
                inside = f"{place}.qas[{number}]"
                questions.append(_question(qa, context, len(documents), inside))
            documents.append(context)
    if not questions:
        raise InputError(f"{', '.join(str(file) for file in files[:3])} holds no questions")
    return Questions(documents, questions)


def _paragraphs(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    text = read_text(file)
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{file}, line {error.lineno}: it is not JSON: {error.msg}") from error
    except RecursionError as error:
        raise InputError(f"{file} is not in SQuAD's format: it is nested too deeply") from error
    for number, article in enumerate(_list(values, "data", str(file))):
        place = f"{file}: data[{number}]"
        for inside, paragraph in enumerate(_list(article, "paragraphs", place)):
            yield f"{place}.paragraphs[{inside}]", paragraph


def _question(qa: Any, context: str, document: int, place: str) -> Question:
    text = _text(qa, "question", place)
    answers = []
    for number, answer in enumerate(_list(qa, "answers", place)):
        inside = f"{place}.answers[{number}]"
        wanted, start = _text(answer, "text", inside), answer.get("answer_start")
        if not isinstance(start, int) or start < 0 or not context.startswith(wanted, start):
            raise InputError(
                f"{inside}: the context does not have {wanted[:60]!r} at answer_start "
                f"{start!r}, counted in characters from 0"
            )
        answers.append((wanted, start))
    impossible = qa.get("is_impossible", not answers)
    if impossible is not (not answers):
        raise InputError(f"{place}: is_impossible is {impossible!r}, with {len(answers)} answers")
    return Question(str(qa.get("id", place)), text, document, tuple(answers))


def _list(values: Any, key: str, place: str) -> list[Any]:
    value = values.get(key) if isinstance(values, dict) else None
    if not isinstance(value, list):
        raise InputError(f"{place} is not in SQuAD's format: {key} must be a list")
    return value


def _text(values: Any, key: str, place: str) -> str:
    value = values.get(key) if isinstance(values, dict) else None
    if not isinstance(value, str) or not value:
        raise InputError(f"{place} is not in SQuAD's format: {key} must be a string of text")
    return value


def exact_match(predicted: str, answers: Sequence[str]) -> float:
    """1 if the prediction equals an answer up to case, punctuation and articles, else 0.

    For an unanswerable question (no answers) the empty string is right.
    """
    return max(float(normalize(predicted) == normalize(answer)) for answer in answers or [""])


def f1(predicted: str, answers: Sequence[str]) -> float:
    """The best harmonic mean of precision and recall of words with an answer, as SQuAD 2.0's
    script counts it: where either side has no words, both must have none."""
    return max(_f1(normalize(predicted).split(), normalize(a).split()) for a in answers or [""])


def _f1(predicted: list[str], answer: list[str]) -> float:
    if not predicted or not answer:
        return float(predicted == answer)
    shared = sum((Counter(predicted) & Counter(answer)).values())
    if shared == 0:
        return 0.0
    precision, recall = shared / len(predicted), shared / len(answer)
    return 2 * precision * recall / (precision + recall)


def normalize(text: str) -> str:
    """Lower case without punctuation, articles and superfluous space, as SQuAD's script has it."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())

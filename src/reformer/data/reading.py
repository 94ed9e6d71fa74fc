"""A question and a document as one sequence: \\x01 question \\x02 document.

The question takes the first positions, and the document those from a fixed one on, so that a
model can tell which of the two a token is in. A part of a document keeps its place: what was
learned from parts serves whole documents.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reformer.config import ReformerConfig
from reformer.data.files import InputError
from reformer.data.rows import Row, encode_text, pad_batch, pick, stack_rows
from reformer.data.sources import NATS, Batch
from reformer.data.squad import Question, Questions
from reformer.data.tokenizer import ByteTokenizer, JsonTokenizer, PlacedTokens
from reformer.ops.randomness import derive_seed

_START, _END = "\x01", "\x02"
_MOST_QUESTION = 512
_OVERLAP = 512
"""Tokens that neighbouring pages share, or half a page: an answer and what is around it."""
_WITHOUT_ANSWER = 0.25
"""The share of the parts of longer documents that hold no answer."""
_PART = 1
"""Names the draws of parts of documents."""


@dataclass(frozen=True)
class Page:
    """A question and as much of its document as one sequence holds."""

    input_ids: Row
    positions: Row
    question_length: int
    first: int
    """The document's token that comes first."""

    def __len__(self) -> int:
        return len(self.input_ids)


class Reader:
    """Writes questions and documents as a model's sequences."""

    def __init__(self, tokenizer: ByteTokenizer | JsonTokenizer, config: ReformerConfig) -> None:
        self.tokenizer, self.max_length = tokenizer, config.max_length
        self._num_positions = math.prod(config.position_shape)
        # From the position table: it is the same whatever length is trained.
        self._room = min(_MOST_QUESTION, self._num_positions // 4)

    def question(self, text: str) -> Row:
        """The question's tokens between its marks; InputError when they are too many."""
        ids = encode_text(f"{_START}{' '.join(text.split())}{_END}", self.tokenizer)
        most = self.most_question
        if len(ids) > most:
            raise InputError(
                f"the question {text[:40]!r} has {len(ids)} tokens with its marks: in sequences of "
                f"{self.max_length}, a question may have {most}"
            )
        return ids

    @property
    def most_question(self) -> int:
        """How many tokens a question may have, with its marks."""
        return min(self._room, self.max_length // 2)

    def document(self, text: str) -> PlacedTokens:
        """The document's tokens and their characters."""
        return self.tokenizer.places(text)

    def page(self, question: Row, document: PlacedTokens, first: int = 0) -> Page:
        """The question with the document from token ``first`` on, as far as it fits."""
        part = document.ids[first : first + self.room(question)]
        inside = (first + np.arange(len(part))) % (self._num_positions - self._room)
        positions = np.concatenate([np.arange(len(question)), self._room + inside])
        return Page(np.concatenate([question, part]), positions, len(question), first)

    def pages(self, question: Row, document: PlacedTokens) -> list[Page]:
        """The whole document: one page, or pages that overlap."""
        room = self.room(question)
        last = max(0, len(document) - room)
        firsts = [*range(0, last, room - min(_OVERLAP, room // 2)), last]
        return [self.page(question, document, first) for first in firsts]

    def room(self, question: Row) -> int:
        """How many tokens of a document one page holds."""
        return self.max_length - len(question)


class SpanSource(ABC):
    """Pages with the places of their answers; of a long document, random parts.

    A page that holds no answer points at its first token, whether it is that the question has
    none or that the answer stands elsewhere in the document: every fourth part is such a one
    ("no-answer", Clark & Gardner 2017, section 3.2). The spans of all pages are so measured against
    one thing, and the best of them is the document's answer. The other parts hold the first
    answer, anywhere.
    """

    unit = NATS

    def __init__(self, documents: Sequence[str], reader: Reader, seed: int) -> None:
        self.reader, self.seed = reader, seed
        self.documents = [reader.document(text) for text in documents]

    @abstractmethod
    def question(self, number: int) -> Question:
        """What sequence ``number`` asks, a function of the seed and the number."""

    def batch(self, first: int, count: int) -> Batch:
        rows = [self._row(number) for number in range(first, first + count)]
        return {
            **batch_of([page for page, _ in rows]),
            "start_positions": stack_rows([np.array([start]) for _, (start, _) in rows])[:, 0],
            "end_positions": stack_rows([np.array([end]) for _, (_, end) in rows])[:, 0],
        }

    def _row(self, number: int) -> tuple[Page, tuple[int, int]]:
        question = self.question(number)
        document, ids = self.documents[question.document], self.reader.question(question.text)
        spans = [document.covering(start, start + len(text)) for text, start in question.answers]
        room = self.reader.room(ids)
        firsts = np.arange(max(0, len(document) - room) + 1)
        without = _without(spans, firsts, room)
        rng = np.random.default_rng(derive_seed(self.seed, _PART, number))
        if not spans or (len(without) and rng.random() < _WITHOUT_ANSWER):
            return self.reader.page(ids, document, int(rng.choice(without))), (0, 0)
        start, end = spans[0]
        page = self.reader.page(ids, document, int(rng.choice(_holding(start, end, firsts, room))))
        shift = page.question_length - page.first
        return page, (start + shift, end + shift)


def _without(spans: Sequence[tuple[int, int]], firsts: Row, room: int) -> Row:
    """Of the parts of ``room`` tokens from ``firsts`` on, those without a token of any span."""
    touched = np.zeros(len(firsts), bool)
    for start, end in spans:
        touched |= (firsts <= end) & (firsts + room > start)
    return firsts[~touched]


def _holding(start: int, end: int, firsts: Row, room: int) -> Row:
    """Those that hold all of the span, or only its beginning where it is longer than they."""
    return firsts[(firsts <= start) & (firsts + room > min(end, start + room - 1))]


class QuestionSource(SpanSource):
    """Questions that people wrote, each once an epoch."""

    def __init__(self, questions: Questions, reader: Reader, seed: int) -> None:
        super().__init__(questions.documents, reader, seed)
        self.questions = questions.questions
        for question in self.questions:
            reader.question(question.text)

    def question(self, number: int) -> Question:
        return self.questions[pick(number, len(self.questions), self.seed)]


def batch_of(pages: Sequence[Page]) -> Batch:
    """Pages as the model's input."""
    batch = pad_batch([page.input_ids for page in pages])
    return {**batch, "positions": stack_rows([page.positions for page in pages])}

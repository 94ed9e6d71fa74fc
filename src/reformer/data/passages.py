"""Passages of documents as questions on these documents: where do these words stand?

Any text gives such questions without end. What they teach, to find in a document what is like a
question, is the first step of most questions that people ask of documents.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from reformer.data.files import InputError, ending_of
from reformer.data.reading import Reader, SpanSource
from reformer.data.records import holds_records, read_records, read_text
from reformer.data.rows import Row
from reformer.data.squad import Question, Questions, read_squad
from reformer.ops.randomness import derive_seed

_FEWEST_WORDS, _MOST_WORDS = 4, 24
_LEFT_OUT = 0.1
"""The share of a passage's words that a question leaves out: a quotation is seldom exact."""
_PASSAGES = 1
"""Names the draws of passages."""
_HELD_OUT = 2
"""Names the passages of a validation, which are the same for every run."""


def read_documents(files: Sequence[Path]) -> list[str]:
    """Documents: whole files, the ``text`` of records, or the contexts of SQuAD's JSON.

    InputError names the file, and the line or the entry, that cannot be read.
    """
    documents: list[str] = []
    for file in files:
        if holds_records(file):
            documents += [record.text("text") for record in read_records([file])]
        elif ending_of(file) == ".json":
            documents += read_squad([file]).documents
        else:
            documents.append(read_text(file))
    documents = [text for text in documents if text.split()]
    if not documents:
        raise InputError(f"{', '.join(str(file) for file in files[:3])} holds no text")
    return documents


class Passages:
    """Passages of documents; each word of any document is as likely as another to begin one."""

    def __init__(self, documents: Sequence[str], reader: Reader) -> None:
        self.documents = documents
        # A token has at least one byte; the question's two marks are tokens too.
        self._most_bytes = reader.most_question - 2
        self._starts = [_word_starts(text) for text in documents]
        self._ends = np.cumsum([len(starts) for starts in self._starts])

    def draw(self, seed: int) -> Question:
        """The passage that ``seed`` names, as a question whose answer is its place."""
        rng = np.random.default_rng(seed)
        place = int(rng.integers(self._ends[-1]))
        document = int(np.searchsorted(self._ends, place, side="right"))
        text, starts = self.documents[document], self._starts[document]
        first = place - int(self._ends[document]) + len(starts)
        first = min(first, max(0, len(starts) - _FEWEST_WORDS))
        last = first + int(rng.integers(_FEWEST_WORDS, _MOST_WORDS + 1))
        start, end = int(starts[first]), int(starts[last]) if last < len(starts) else len(text)
        data = text[start:end].encode(errors="replace")[: self._most_bytes]
        passage = data.decode(errors="ignore").rstrip()
        words = passage.split()
        kept = [word for word in words if rng.random() >= _LEFT_OUT]
        return Question(str(seed), " ".join(kept or words), document, ((passage, start),))

    def questions(self, count: int) -> Questions:
        """So many of them, the same for every run, to judge a model by."""
        drawn = [self.draw(derive_seed(_HELD_OUT, number)) for number in range(count)]
        return Questions(list(self.documents), drawn)


def _word_starts(text: str) -> Row:
    """Where the words of a text begin, int64 [N]."""
    return np.fromiter((word.start() for word in re.finditer(r"\S+", text)), np.int64)


class PassageSource(SpanSource):
    """Passages without end, each to be found in its document."""

    def __init__(self, documents: Sequence[str], reader: Reader, seed: int) -> None:
        super().__init__(documents, reader, seed)
        self._passages = Passages(documents, reader)

    def question(self, number: int) -> Question:
        return self._passages.draw(derive_seed(self.seed, _PASSAGES, number))

"""Passages found again: pretraining for questions on documents, from any text.

A question is some words of a document, and its answer the place where they stand. ``--init``
hands on what is learned to the qa task; ``reformer ask`` finds a quotation by it.
"""

from collections.abc import Callable, Sequence

from reformer.data.files import InputError, find_files
from reformer.data.passages import Passages, PassageSource, read_documents
from reformer.data.records import has_records, keep_records, kept_records
from reformer.tasks.qa import QuestionAnsweringTask, QuestionValidation, reader_of, show_answers
from reformer.training.planner import format_bytes
from reformer.training.run import Run, require_vocabulary
from reformer.training.task import Task

_VALIDATION_PART = 20
"""Without a validation file, one document in so many, or that part of a single one, is kept."""
_JUDGED_BY = 200
"""Passages of a validation."""


class FindTask(QuestionAnsweringTask):
    """Files, each a document; records with a text; or the contexts of SQuAD's JSON."""

    def inputs(self, given: tuple[str, ...]) -> tuple[str, ...]:
        if not given:
            raise InputError("the find task learns to find passages of documents: name their files")
        return given

    def prepare(self, run: Run, *, length_fixed: bool, say: Callable[[str], None]) -> Task:
        config = run.description.config
        reader = reader_of(run)
        require_vocabulary(reader.tokenizer, config.vocab_size)
        _keep(run)
        documents = _kept(run, "train")
        num_bytes = sum(len(text.encode(errors="replace")) for text in documents)
        return Task(
            self.model,
            PassageSource(documents, reader, config.seed),
            self.validation(run),
            f"{format_bytes(num_bytes)} of text, {len(documents):,} documents",
            lambda model: show_answers(self.validation(run), model),
        )

    def validation(self, run: Run) -> QuestionValidation:
        return _validation(run, _kept(run, "validation"), run.description.settings.evaluate_tokens)

    def validation_on(self, run: Run, inputs: Sequence[str]) -> QuestionValidation:
        return _validation(run, read_documents(find_files(inputs)), 1)


def _validation(run: Run, documents: list[str], part_tokens: int) -> QuestionValidation:
    reader = reader_of(run)
    return QuestionValidation(
        Passages(documents, reader).questions(_JUDGED_BY), reader, part_tokens
    )


def _keep(run: Run) -> None:
    """Read the run's documents into its data folder, unless that has been done."""
    if has_records(run.data, "train", "validation"):
        return
    description = run.description
    documents = read_documents(find_files(description.inputs))
    if description.validation is not None:
        held_out = read_documents(find_files([description.validation]))
    else:
        documents, held_out = _split(documents)
    for name, texts in (("train", documents), ("validation", held_out)):
        keep_records(run.data, name, [{"text": text} for text in texts])


def _split(documents: list[str]) -> tuple[list[str], list[str]]:
    """All but the last documents, and these; of a single one, its words but the last, and these."""
    if len(documents) > 1:
        cut = len(documents) - max(1, len(documents) // _VALIDATION_PART)
        return documents[:cut], documents[cut:]
    (text,) = documents
    cut = text.rfind(" ", 0, len(text) - len(text) // _VALIDATION_PART)
    if cut <= 0 or not text[:cut].strip() or not text[cut:].strip():
        raise InputError("the text is too short to keep a part for validation: give more of it")
    return [text[:cut]], [text[cut:]]


def _kept(run: Run, name: str) -> list[str]:
    return [record.fields["text"] for record in kept_records(run.data, name)]


TASK = FindTask()

"""Question answering: where in a document the answer to a question stands."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from reformer.config import ReformerConfig
from reformer.data.files import InputError, find_files
from reformer.data.reading import QuestionSource, Reader
from reformer.data.records import has_records
from reformer.data.squad import Question, Questions, exact_match, f1, read_squad
from reformer.data.tokenizer import tokenizer_in
from reformer.generation.answering import Answer, answer_pages
from reformer.models.question_answering import ReformerForQuestionAnswering
from reformer.training.evaluation import Pause, evaluating, no_pause
from reformer.training.run import Run, require_vocabulary
from reformer.training.task import Task, TaskKind

_VALIDATION_PART = 20
"""Without a validation file, one document in so many is kept for validation."""
_SHOWN = 5


class QuestionAnsweringTask(TaskKind):
    """SQuAD's JSON, versions 1.1 and 2.0."""

    model = ReformerForQuestionAnswering

    def inputs(self, given: tuple[str, ...]) -> tuple[str, ...]:
        if not given:
            raise InputError(
                "the qa task learns to answer questions: name a JSON file in SQuAD's format"
            )
        return given

    def config(self, config: ReformerConfig) -> ReformerConfig:
        return replace(config.seeing_both_sides(), labels=None)

    def prepare(self, run: Run, *, length_fixed: bool, say: Callable[[str], None]) -> Task:
        config = run.description.config
        reader = reader_of(run)
        require_vocabulary(reader.tokenizer, config.vocab_size)
        _keep(run)
        questions = Questions.kept(run.data, "train")
        return Task(
            self.model,
            QuestionSource(questions, reader, config.seed),
            self.validation(run),
            f"{len(questions.questions):,} questions on {len(questions.documents):,} documents",
            lambda model: show_answers(self.validation(run), model),
        )

    def validation(self, run: Run) -> "QuestionValidation":
        part_tokens = run.description.settings.evaluate_tokens
        return QuestionValidation(
            Questions.kept(run.data, "validation"), reader_of(run), part_tokens
        )

    def validation_on(self, run: Run, inputs: Sequence[str]) -> "QuestionValidation":
        return QuestionValidation(read_squad(find_files(inputs)), reader_of(run), 1)


def reader_of(run: Run) -> Reader:
    """How the run's model reads."""
    return Reader(tokenizer_in(run.path), run.description.config)


def _keep(run: Run) -> None:
    """Read the run's inputs into its data folder, unless that has been done."""
    names = [f"{part}-{what}" for part in ("train", "validation") for what in _KEPT]
    if has_records(run.data, *names):
        return
    description = run.description
    questions = read_squad(find_files(description.inputs))
    if description.validation is not None:
        held_out = read_squad(find_files([description.validation]))
    else:
        count = len(questions.documents)
        cut = count - max(1, count // _VALIDATION_PART)
        held_out = questions.on_documents(cut, count)
        questions = questions.on_documents(0, cut)
    if not questions.questions or not held_out.questions:
        raise InputError(
            "questions are needed on one document to train on and on another to validate on: "
            "give more documents, or a --validation file"
        )
    questions.keep(run.data, "train")
    held_out.keep(run.data, "validation")


_KEPT = ("documents", "questions")


class QuestionValidation:
    """Exact match and F1 as SQuAD's script counts them, in percent; on the way, of as many
    questions as have ``part_tokens`` tokens to read."""

    def __init__(self, questions: Questions, reader: Reader, part_tokens: int) -> None:
        self.questions, self.reader = questions.questions, reader
        self.texts = questions.documents
        self.documents = [reader.document(text) for text in questions.documents]
        for question in self.questions:
            reader.question(question.text)
        mean = sum(len(self.documents[q.document]) for q in self.questions) / len(self.questions)
        self._stride = max(1, round(len(self.questions) * mean / part_tokens))

    def answers(
        self,
        model: ReformerForQuestionAnswering,
        questions: Sequence[Question],
        pause: Pause = no_pause,
    ) -> Iterator[Answer]:
        """The model's answers."""
        for question in questions:
            pause()
            tokens = self.documents[question.document]
            pages = self.reader.pages(self.reader.question(question.text), tokens)
            with evaluating(model):
                yield answer_pages(model, pages, tokens, self.texts[question.document])

    def measure(
        self, model: ReformerForQuestionAnswering, *, whole: bool, pause: Pause = no_pause
    ) -> dict[str, float]:
        questions = self.questions if whole else self.questions[:: self._stride]
        answerable: list[tuple[float, float]] = []
        unanswerable: list[tuple[float, float]] = []
        for question, found in zip(questions, self.answers(model, questions, pause), strict=True):
            wanted = [text for text, _ in question.answers]
            score = exact_match(found.text, wanted), f1(found.text, wanted)
            (answerable if wanted else unanswerable).append(score)
        metrics = _percent("", answerable + unanswerable)
        if answerable and unanswerable:
            metrics |= _percent("answerable_", answerable)
            metrics |= _percent("unanswerable_", unanswerable)
        return metrics

    def cost(self, metrics: Mapping[str, float]) -> float:
        return -metrics["validation_f1"]


def _percent(kind: str, scores: Sequence[tuple[float, float]]) -> dict[str, float]:
    matches, overlaps = zip(*scores, strict=True)
    return {
        f"validation_{kind}exact_match": 100 * sum(matches) / len(scores),
        f"validation_{kind}f1": 100 * sum(overlaps) / len(scores),
    }


def show_answers(
    validation: QuestionValidation, model: ReformerForQuestionAnswering
) -> Iterator[str]:
    """Some questions, what the model answers, and what is right."""
    questions = validation.questions[:_SHOWN]
    for question, found in zip(questions, validation.answers(model, questions), strict=True):
        wanted = " / ".join(text for text, _ in question.answers[:1]) or "no answer"
        yield f"{question.text}\n  {found.text or 'no answer'} (right: {wanted})\n"


TASK = QuestionAnsweringTask()

"""What a run learns from and is judged by, made from its description."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from reformer.config import ReformerConfig
from reformer.data.chat_template import chat_encoder
from reformer.data.corpus import prepare_corpus
from reformer.data.dialogues import DialogueSource, prepare_dialogues
from reformer.data.files import InputError
from reformer.data.sources import CopySource, Source, TextSource
from reformer.data.store import open_store
from reformer.ops.randomness import derive_seed
from reformer.training.dialogue_validation import DialogueValidation
from reformer.training.evaluation import CopyValidation, TextValidation, Validation
from reformer.training.run import Run, require_vocabulary

_COPY_SEQUENCES = 32
_HELD_OUT = 1
"""Names the stream of copy sequences that is kept for validation."""


@dataclass(frozen=True)
class Task:
    """Training sequences, validation, and the size of the text (None: made up on the fly)."""

    source: Source
    validation: Validation
    num_tokens: int | None = None
    num_bytes: int | None = None


def prepare_task(run: Run, *, length_fixed: bool, say: Callable[[str], None]) -> tuple[Run, Task]:
    """Tokenise the run's inputs, if that has not been done, and open them.

    When the text is shorter than the model's max_length, an error says so if the length was
    asked for (``length_fixed``); else the model is made shorter and ``say`` tells.
    """
    if run.description.settings.task == "copy":
        return run, copy_task(run.description.config)
    description = run.description
    tokenizer = run.tokenizer()
    config = description.config
    require_vocabulary(tokenizer, config.vocab_size)
    if description.settings.task == "dialogue":
        return run, _dialogue_task(run)
    corpus = prepare_corpus(
        run.data, description.inputs, description.validation, tokenizer, config.vocab_size
    )
    num_tokens = len(corpus.train)
    if config.max_length > num_tokens and not length_fixed:
        say(f"The text is short: the sequence length is {num_tokens}, not {config.max_length}.")
        config = replace(config, max_length=num_tokens)
        run = run.describe(replace(description, config=config))
    settings = run.description.settings
    source = TextSource(corpus.train, config.max_length, config.seed)
    validation = TextValidation(corpus.validation, settings.evaluate_tokens)
    return run, Task(source, validation, num_tokens, corpus.train.num_bytes)


def _dialogue_task(run: Run) -> Task:
    description = run.description
    config = description.config
    encoder = chat_encoder(run.chat_template(), run.tokenizer())
    corpus = prepare_dialogues(
        run.data, description.inputs, description.validation, encoder, config.vocab_size
    )
    return Task(
        DialogueSource(corpus.train, config.max_length, config.seed, encoder),
        DialogueValidation(corpus.validation, description.settings.evaluate_tokens, encoder),
        len(corpus.train),
        corpus.train.num_bytes,
    )


def dialogue_validation(run: Run) -> DialogueValidation:
    """The validation of a run that has prepared its conversations before."""
    encoder = chat_encoder(run.chat_template(), run.tokenizer())
    part_tokens = run.description.settings.evaluate_tokens
    return DialogueValidation(open_store(run.data, "validation"), part_tokens, encoder)


def copy_task(config: ReformerConfig) -> Task:
    """The duplication task at the model's length and vocabulary."""
    length, vocab_size = config.max_length, config.vocab_size
    held_out = CopySource(length, vocab_size, derive_seed(config.seed, _HELD_OUT))
    return Task(
        CopySource(length, vocab_size, config.seed),
        CopyValidation(held_out, _COPY_SEQUENCES),
    )


def require_text(run: Run) -> None:
    """InputError unless the run was trained on text."""
    if run.description.settings.task != "text":
        raise InputError(f"{run.path} was trained on the {run.description.settings.task} task")

"""What a run learns and is judged by.

A task is one subclass of ``TaskKind``, in one file of ``reformer/tasks``, and its name in
``settings.Task``. It says which model learns it, checks and reads the files that it is given,
and returns a ``Task``: training sequences by number, and a validation.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reformer.config import ReformerConfig
from reformer.data.files import InputError, find_files
from reformer.data.sources import Source
from reformer.models.pretrained import PretrainedReformer
from reformer.training.evaluation import Validation
from reformer.training.run import Run

Example = Callable[[Any], Iterator[str]]
"""Pieces of text that show what a trained model does."""


@dataclass(frozen=True)
class Task:
    """A task whose data are ready."""

    model: type[PretrainedReformer]
    source: Source
    validation: Validation
    data: str
    """The data in a few words, for people."""
    example: Example | None = None


def shortened(
    run: Run, num_tokens: int, *, length_fixed: bool, say: Callable[[str], None]
) -> Run | None:
    """The run with sequences as long as its data, when these are shorter than its own; else None.

    Not when the length was asked for: then the source refuses it.
    """
    config = run.description.config
    if length_fixed or config.max_length <= num_tokens:
        return None
    say(f"The input is short: the sequence length is {num_tokens}, not {config.max_length}.")
    shorter = replace(config, max_length=num_tokens)
    return run.describe(replace(run.description, config=shorter))


class TaskKind(ABC):
    """What can be learned, before any data are seen."""

    model: type[PretrainedReformer]
    """The model that learns it."""
    reads_text = True
    """Whether a tokenizer turns its files into tokens."""

    @abstractmethod
    def inputs(self, given: tuple[str, ...]) -> tuple[str, ...]:
        """The files to learn from; InputError when some are missing, or there can be none."""

    def find_files(self, inputs: Sequence[str]) -> list[Path]:
        """The files that the inputs stand for; InputError for what is not there."""
        return find_files(inputs)

    def config(self, config: ReformerConfig) -> ReformerConfig:
        """The model's config as this task needs it; ConfigError when it cannot be."""
        return config

    @abstractmethod
    def prepare(self, run: Run, *, length_fixed: bool, say: Callable[[str], None]) -> Task | Run:
        """Read the run's inputs into its data folder, if that has not been done, and open them.

        Returns the task, or the run with a config that the data demand (``Run.describe``):
        then it is called again. ``length_fixed``: the user asked for the config's max_length.
        ``say`` tells people what was decided for them.
        """

    @abstractmethod
    def validation(self, run: Run) -> Validation:
        """What the run is judged by, once its data are ready."""

    def validation_on(self, run: Run, inputs: Sequence[str]) -> Validation:
        """The same on other files."""
        task = run.description.settings.task
        raise InputError(f"the {task} task makes its own data: name no files with it")

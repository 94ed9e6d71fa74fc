"""A run's folder: what is where, and the rules that keep one run from harming another.

RUN/run.json                what is trained: preset, inputs, config, settings
RUN/config.json, model.safetensors     the best weights so far
RUN/tokenizer.json          if the run has one
RUN/chat.json               how conversations are written, if the run learns them
RUN/data/                   token stores
RUN/checkpoints/            the last states, to go on from
RUN/metrics.jsonl, tensorboard/, loss.png
"""

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from reformer import durable
from reformer.config import ConfigError, ReformerConfig
from reformer.data.chat_template import (
    TEMPLATE_FILE,
    ChatTemplate,
    read_template,
    template_text,
)
from reformer.data.files import InputError
from reformer.data.tokenizer import TOKENIZER_FILE, JsonTokenizer, Tokenizer, tokenizer_in
from reformer.models.pretrained import PretrainedReformer
from reformer.models.store import WEIGHTS_FILE, write_model
from reformer.settings import TrainingSettings
from reformer.training.checkpoint import CheckpointError

RUN_FILE = "run.json"
_FORMAT = 1


class RunError(ValueError):
    """A run folder that cannot be used as asked; the message names it and what would work."""


@dataclass(frozen=True)
class RunDescription:
    """What a run trains. inputs and validation are absolute paths or globs."""

    preset: str
    config: ReformerConfig
    settings: TrainingSettings
    inputs: tuple[str, ...] = ()
    validation: str | None = None
    init: str | None = None
    """Folder of the model whose weights the run starts from; None: new weights."""
    processes: int = 1
    """Processes that train it together."""

    def __post_init__(self) -> None:
        if self.processes > 1 and self.settings.gradients != "kept":
            raise ConfigError(
                f"gradients is {self.settings.gradients!r}: each of the {self.processes} processes "
                "would use its own before they are averaged, and train another model; "
                "several processes need gradients to be 'kept'"
            )

    @property
    def sequences_per_step(self) -> int:
        """Sequences behind one update of the weights."""
        return self.settings.batch_size * self.settings.accumulation_steps * self.processes

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "format": _FORMAT,
            "preset": self.preset,
            "inputs": list(self.inputs),
            "validation": self.validation,
            "init": self.init,
            "processes": self.processes,
            "config": self.config.to_dict(),
            "settings": self.settings.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "RunDescription":
        """The inverse of ``to_dict``; ValueError, TypeError or KeyError for anything else."""
        if values["format"] != _FORMAT:
            raise ValueError(f"format {values['format']} is not {_FORMAT}")
        processes = values.get("processes", 1)
        if type(processes) is not int or processes < 1:
            raise ValueError(f"processes is {processes!r}, not a number of processes")
        return cls(
            preset=str(values["preset"]),
            config=ReformerConfig.from_dict(values["config"]),
            settings=TrainingSettings.from_dict(values["settings"]),
            inputs=tuple(str(item) for item in values["inputs"]),
            validation=None if values["validation"] is None else str(values["validation"]),
            init=None if values.get("init") is None else str(values["init"]),
            processes=processes,
        )


@dataclass(frozen=True)
class Run:
    """A run folder and its description."""

    path: Path
    description: RunDescription

    @property
    def data(self) -> Path:
        return self.path / "data"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def plot(self) -> Path:
        return self.path / "loss.png"

    @property
    def has_model(self) -> bool:
        """Whether best weights have been written."""
        return durable.current_file(self.path, WEIGHTS_FILE).is_file()

    def tokenizer(self) -> Tokenizer:
        """The run's own tokenizer, or bytes."""
        return tokenizer_in(self.path)

    def chat_template(self) -> ChatTemplate:
        """How conversations are written: the run's chat.json, or the default."""
        return read_template(self.path) or ChatTemplate()

    def describe(self, description: RunDescription) -> "Run":
        """The same folder with another description, which is written down."""
        _write_description(self.path, description)
        return replace(self, description=description)

    def write_model(self, model: PretrainedReformer, weights: Mapping[str, Tensor]) -> None:
        """Make ``weights``, the model's, the run's best; CheckpointError when the disk fails."""
        architecture = type(model).__name__.removeprefix("FSDP")  # what fully_shard adds
        try:
            write_model(self.path, architecture, model.config, weights)
        except OSError as error:
            raise CheckpointError(
                f"the best weights could not be saved in {self.path}: "
                f"{error.strerror or error}; earlier ones are untouched"
            ) from error

    def discard(self) -> None:
        """Delete the folder: for a run that never started."""
        shutil.rmtree(self.path, ignore_errors=True)


def create_run(path: Path, description: RunDescription, tokenizer: Tokenizer) -> Run:
    """Make a run folder; RunError when the path already holds something."""
    if path.exists() and not path.is_dir():
        raise RunError(f"{path} is a file: --out must name a new folder")
    # A name of this process's own: another may be making the same run.
    temporary = path.with_name(f"{durable.TEMPORARY}{path.name}-{os.getpid()}")
    try:
        durable.make_folder(path.parent)
        if path.exists():
            _require_empty(path)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        if isinstance(tokenizer, JsonTokenizer):
            durable.write_text(temporary / TOKENIZER_FILE, tokenizer.text)
        if description.settings.task == "dialogue":
            durable.write_text(temporary / TEMPLATE_FILE, template_text(ChatTemplate()))
        _write_description(temporary, description)
        durable.flush_folder(temporary)
        os.rename(temporary, path)  # refuses a folder that is not empty
        durable.flush(path.parent)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            _require_empty(path)
        raise RunError(f"cannot write to {path}: {error.strerror}") from error
    return Run(path, description)


def shared_by(description: RunDescription, processes: int) -> RunDescription:
    """The same training by another number of processes: with as many sequences per step.

    ConfigError when they cannot be divided evenly.
    """
    settings, sequences = description.settings, description.sequences_per_step
    passes, rest = divmod(sequences, settings.batch_size * processes)
    if rest:
        raise ConfigError(
            f"this run takes {sequences} sequences per step, {settings.batch_size} at a time: "
            f"{processes} processes cannot share them evenly; use another number of processes"
        )
    settings = replace(settings, accumulation_steps=passes)
    return replace(description, settings=settings, processes=processes)


def _require_empty(path: Path) -> None:
    if any(path.iterdir()):
        raise RunError(
            f"{path} is not empty, and a run never overwrites anything: "
            "use --resume to go on with the run in it, or another --out"
        )


def open_run(path: Path) -> Run:
    """The run in a folder; RunError when there is none."""
    file = path / RUN_FILE
    if not file.is_file():
        raise RunError(f"{path} is not a run: it has no {RUN_FILE}")
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        return Run(path, RunDescription.from_dict(values))
    except (OSError, ConfigError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise RunError(f"{file} cannot be read: {error}") from error


def next_run_path(parent: Path, preset: str) -> Path:
    """``parent/PRESET-N`` with the smallest N above all that exist."""
    return parent / f"{preset}-{max(_numbers(parent, preset), default=0) + 1}"


def find_run(parent: Path, path: str | Path | None, preset: str) -> Run:
    """The run at ``path``, by default the one in ``parent/PRESET-N`` with the largest N."""
    if path is not None:
        return open_run(Path(path))
    number = max(_numbers(parent, preset), default=None)
    if number is None:
        raise RunError(f"there is no run {parent}/{preset}-… to resume: name one with --out")
    return open_run(parent / f"{preset}-{number}")


def _numbers(parent: Path, preset: str) -> Iterator[int]:
    for path in parent.glob(f"{preset}-*"):
        suffix = path.name.removeprefix(f"{preset}-")
        if suffix.isdigit():
            yield int(suffix)


def _write_description(path: Path, description: RunDescription) -> None:
    durable.write_text(path / RUN_FILE, json.dumps(description.to_dict(), indent=2) + "\n")


def require_vocabulary(tokenizer: Tokenizer, vocab_size: int) -> None:
    """InputError when a tokenizer.json and a model do not have the same number of ids."""
    if isinstance(tokenizer, JsonTokenizer) and tokenizer.vocab_size != vocab_size:
        raise InputError(
            f"the tokenizer {tokenizer.path} has {tokenizer.vocab_size} ids, but the model's "
            f"vocab_size is {vocab_size}: they must be the same"
        )

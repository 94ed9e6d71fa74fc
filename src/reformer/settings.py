"""How a model is trained: one frozen dataclass, stdlib only, checked when it is made."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from reformer.checks import ConfigError, require_choice, require_count

Task = Literal[
    "text",
    "dialogue",
    "copy",
    "image",
    "classify",
    "qa",
    "find",
    "tag",
    "masked",
    "signal",
    "seq2seq",
]
Precision = Literal["float32", "bfloat16"]
Gradients = Literal["kept", "freed", "twice"]


@dataclass(frozen=True)
class TrainingSettings:
    """Steps, batch, optimizer and rhythm of a training run. The sequence length is the model's."""

    task: Task = "text"
    """What to learn: "text" (files), "dialogue" (conversations as JSON lines, the assistant's part
    of them), "copy" (the paper's duplication task), "image" (pictures), "classify" (texts with
    labels, as CSV or JSON lines), "qa" (questions on documents, as SQuAD's JSON), "find"
    (passages of documents, for models that then learn "qa"),
    "tag" (words with tags, as CoNLL's columns or JSON lines), "masked" (hidden spans of files,
    for models that read both ways), "signal" (sound, genomes, series of numbers), or "seq2seq"
    (pairs of texts, as lines with a tab or JSON lines)."""
    image_shape: tuple[int, int, int] | None = None
    """Pictures: cut and scale them to so many rows, columns and channels (1 grey, 3 colour).
    Without it they must all have one shape."""
    column: str | None = None
    """Signals from CSV files: which column to learn; not needed where one alone holds numbers."""
    steps: int = 1000
    """Updates of the weights."""
    batch_size: int = 8
    """Sequences per forward pass."""
    accumulation_steps: int = 1
    """Forward passes whose gradients are averaged into one update."""
    learning_rate: float = 1e-3
    """Peak learning rate."""
    warmup_steps: int = 50
    """Updates over which the learning rate rises from zero to its peak; then it falls (cosine)."""
    final_learning_rate: float = 0.1
    """Learning rate at the last step, as a share of the peak."""
    weight_decay: float = 0.01
    """Decoupled weight decay (AdamW), on matrices only."""
    adam_beta1: float = 0.9
    """Decay of the first moment."""
    adam_beta2: float = 0.98
    """Decay of the second moment."""
    clip_norm: float = 1.0
    """Gradients whose global norm is larger are scaled down to it."""
    precision: Precision = "float32"
    """"bfloat16": matrix products under autocast; parameters and gradients stay in float32."""
    gradients: Gradients = "kept"
    """"kept": until the backward pass is over. "freed": each tensor's is used as soon as it is
    whole and then freed, and ``clip_norm`` holds for each tensor, not for all together. "twice": a
    backward pass to measure them and another to use and free them, with the results of "kept".
    The last two save memory, in one process and with one forward pass per update."""
    moments: Precision = "float32"
    """"bfloat16": AdamW's moments in half the memory, rounded up or down at random."""
    evaluate_every: int = 100
    """Steps between validations."""
    evaluate_tokens: int = 16384
    """Validation tokens used on the way; all of them are used at the end."""
    save_every: int = 100
    """Steps between checkpoints."""
    keep_last: int = 2
    """Checkpoints kept; the best weights are kept besides."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulation_steps", "keep_last"):
            require_count(name, getattr(self, name))
        for name in ("evaluate_every", "evaluate_tokens", "save_every"):
            require_count(name, getattr(self, name))
        if self.image_shape is not None:
            _require_image_shape(self.image_shape)
        require_count("warmup_steps", self.warmup_steps, least=0)
        for name in ("learning_rate", "clip_norm"):
            _require_number(name, getattr(self, name), above=0.0)
        _require_number("weight_decay", self.weight_decay)
        _require_number("final_learning_rate", self.final_learning_rate, most=1.0)
        for name in ("adam_beta1", "adam_beta2"):
            _require_number(name, getattr(self, name), most=1.0 - 1e-9)
        require_choice("task", self.task, get_args(Task))
        require_choice("precision", self.precision, get_args(Precision))
        require_choice("gradients", self.gradients, get_args(Gradients))
        require_choice("moments", self.moments, get_args(Precision))
        if self.gradients != "kept" and self.accumulation_steps > 1:
            raise ConfigError(
                f"gradients is {self.gradients!r} and accumulation_steps is "
                f"{self.accumulation_steps}: gradients that are freed cannot be added up over "
                "several passes; keep them, or let accumulation_steps be 1"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainingSettings:
        """The inverse of ``to_dict``; unknown or malformed fields raise ConfigError."""
        known = [field.name for field in dataclasses.fields(cls)]
        for name in values:
            if name not in known:
                raise ConfigError(f"training settings have no field {name!r}")
        values = dict(values)
        if isinstance(values.get("image_shape"), list):  # JSON has no tuples
            values["image_shape"] = tuple(values["image_shape"])
        return cls(**values)


def _require_image_shape(shape: tuple[int, ...]) -> None:
    valid = isinstance(shape, tuple) and len(shape) == 3 and shape[2] in (1, 3)
    if not valid or not all(type(extent) is int and 1 <= extent <= 4096 for extent in shape):
        raise ConfigError(
            f"image_shape is {shape!r}: it must be rows and columns from 1 to 4096, and 1 channel "
            "(grey) or 3 (colour), such as 64 64 3"
        )


def _require_number(
    name: str, value: object, above: float | None = None, most: float = 1e6
) -> None:
    least = 0.0 if above is None else above
    if isinstance(value, (int, float)) and least <= value <= most and value != above:
        return
    lowest = "from 0" if above is None else f"above {above:g}, up"
    raise ConfigError(f"{name} is {value!r}: it must be a number {lowest} to {most:g}")

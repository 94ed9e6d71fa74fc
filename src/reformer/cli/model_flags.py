"""Flags for the fields of a model and of its training, taken from their dataclasses.

A preset, or a run that goes on, gives the defaults; the flags override single fields.
"""

import argparse
import copy
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NoReturn, get_type_hints

import tyro

from reformer.config import LSH, ConfigError, Full, Layer, Local, ReformerConfig
from reformer.presets import Preset
from reformer.settings import TrainingSettings

LayerKind = Literal["local", "lsh", "full"]
_LAYERS: dict[str, Layer] = {"local": Local(rotary_base=10000.0), "lsh": LSH(), "full": Full()}
_TYPES: dict[str, type[Layer]] = {"local": Local, "lsh": LSH, "full": Full}


_NOT_FLAGS = (
    "layers", "encoder_layers", "causal", "num_levels", "head_bias", "labels", "origin",
)  # fmt: skip
"""Fields that are no single word, that the task sets, or that mean nothing to a new model."""


def _model_fields() -> type[ReformerConfig]:
    """ReformerConfig for tyro: max_length is called --length, some fields have no flag."""
    hints = get_type_hints(ReformerConfig)
    hidden = (tyro.conf.Suppress, tyro.conf.Fixed)
    changed: dict[str, Any] = {name: Annotated[hints[name], *hidden] for name in _NOT_FLAGS}
    length = tyro.conf.arg(name="length", help="Sequence length in tokens, to train and to use.")
    changed["max_length"] = Annotated[int, length]
    defaults = {field.name: field for field in dataclasses.fields(ReformerConfig)}
    fields = [(name, kind, copy.copy(defaults[name])) for name, kind in changed.items()]
    return dataclasses.make_dataclass(
        "ModelFields",
        fields,
        bases=(ReformerConfig,),
        namespace={"__doc__": "Sizes of the model."},
        frozen=True,
    )


ModelFields = _model_fields()


@dataclass(frozen=True)
class ModelArguments:
    """A preset and what to change in it."""

    preset: str = "novel"
    """Named starting point; `reformer presets` lists them. By default the task's own."""
    layers: tuple[LayerKind, ...] | None = None
    """One attention type per layer, such as `--layers local lsh local lsh`; settings within a
    type stay the preset's, of the layer at the same place if that is of the type."""
    encoder_layers: tuple[LayerKind, ...] | None = None
    """The same for the encoder, in models that have one."""
    num_hashes: int | None = None
    """Rounds of hashing in every LSH layer."""
    model: ModelFields = dataclasses.field(default_factory=ModelFields)  # type: ignore[valid-type]
    """The model."""
    training: TrainingSettings = dataclasses.field(default_factory=TrainingSettings)

    def config(self) -> ReformerConfig:
        """The model's config with ``--layers`` and ``--num-hashes`` applied."""
        names = [field.name for field in dataclasses.fields(ReformerConfig)]
        config = ReformerConfig(**{name: getattr(self.model, name) for name in names})
        known = dict(_LAYERS) | {_kind(layer): layer for layer in reversed(config.all_layers)}
        if self.layers is not None:
            layers = _of_kinds(self.layers, config.layers, known)
            config = dataclasses.replace(config, layers=layers)
        if self.encoder_layers is not None:
            encoder = _of_kinds(self.encoder_layers, config.encoder_layers or (), known)
            config = dataclasses.replace(config, encoder_layers=encoder)
        if self.num_hashes is not None:
            if not any(isinstance(layer, LSH) for layer in config.all_layers):
                raise ConfigError("num_hashes is given, but the model has no LSH layer")
            config = config.with_num_hashes(self.num_hashes)
        return config


def _of_kinds(
    kinds: Sequence[LayerKind], preset: Sequence[Layer], known: Mapping[str, Layer]
) -> tuple[Layer, ...]:
    """Layers of these kinds: the preset's at the same place where it is of the kind."""
    return tuple(
        preset[place] if place < len(preset) and _kind(preset[place]) == kind else known[kind]
        for place, kind in enumerate(kinds)
    )


def _kind(layer: Layer) -> str:
    return next(kind for kind, cls in _TYPES.items() if isinstance(layer, cls))


def layer_kinds(config: ReformerConfig) -> str:
    """The layers for people, such as "local, lsh, local, lsh"."""
    kinds = ", ".join(_kind(layer) for layer in config.layers)
    if config.encoder_layers is None:
        return kinds
    encoder = ", ".join(_kind(layer) for layer in config.encoder_layers)
    return f"encoder {encoder}; decoder {kinds}"


def defaults(name: str, preset: Preset) -> dict[str, Any]:
    """Values of the fields of ModelArguments that a preset, or a run, gives."""
    config, settings = preset
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return {"preset": name, "model": ModelFields(**fields), "training": settings}


class _QuietParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def peek(words: Sequence[str]) -> argparse.Namespace:
    """The words that decide the other flags' defaults: --preset, --task, --out, --init, --resume.

    Words that cannot be understood are left for the full parser to complain about.
    """
    parser = _QuietParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--preset")
    parser.add_argument("--task")
    parser.add_argument("--out")
    parser.add_argument("--init")
    parser.add_argument("--resume", action="store_true")
    try:
        return parser.parse_known_args(list(words))[0]
    except ValueError:
        return parser.parse_args([])

"""Checkpoint folders of other tools: config.json and weights, whole or in shards.

Safetensors by default. pytorch_model.bin is read only when it is asked for by name, and then by
``torch.load(weights_only=True)``. File names inside an index must be plain names, so nothing
outside the folder is opened.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from reformer.interop.errors import ConversionError

WeightsFile = Literal["model.safetensors", "pytorch_model.bin"]
CONFIG_FILE = "config.json"


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConversionError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConversionError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ConversionError(f"{path} must hold one JSON object")
    return values


def read_tensors(folder: Path, weights_file: WeightsFile) -> dict[str, Tensor]:
    """All tensors of the checkpoint in ``folder``."""
    if (folder / weights_file).is_file():
        return _read_file(folder / weights_file)
    index = folder / f"{weights_file}.index.json"
    if not index.is_file():
        raise ConversionError(_missing(folder, weights_file))
    tensors: dict[str, Tensor] = {}
    for path in _shards(index, Path(weights_file).suffix):
        tensors |= _read_file(path)
    named = read_json(index)["weight_map"]
    if set(named) != set(tensors):
        name = min(set(named) ^ set(tensors))
        raise ConversionError(f"{index} and its files disagree about the tensor {name}")
    return tensors


def _missing(folder: Path, weights_file: WeightsFile) -> str:
    message = f"{folder} has no {weights_file}"
    other = other_kind(weights_file)
    if (folder / other).is_file() or (folder / f"{other}.index.json").is_file():
        message += f", but a {other}: {how_to_ask_for(other)}"
    return message


def other_kind(weights_file: WeightsFile) -> WeightsFile:
    """The kind of file that may hold the weights instead."""
    return "pytorch_model.bin" if weights_file == "model.safetensors" else "model.safetensors"


def how_to_ask_for(weights_file: WeightsFile) -> str:
    """The end of an error's sentence."""
    return (
        f"to read that one, ask for it (weights_file={weights_file!r} in Python, --weights-file "
        f"{weights_file} on the command line)"
    )


def _shards(index: Path, suffix: str) -> list[Path]:
    named = read_json(index).get("weight_map")
    if not isinstance(named, Mapping) or not named:
        raise ConversionError(f"{index} has no weight_map")
    paths = []
    for name in sorted({str(value) for value in named.values()}):
        if not is_plain_name(name) or not name.endswith(suffix):
            raise ConversionError(
                f"{index} names the file {name!r}: it must lie in the same folder"
            )
        paths.append(index.parent / name)
    return paths


def is_plain_name(name: str) -> bool:
    """Whether this is a file name alone, without any way to another folder."""
    separators = {"/", "\\", os.sep, "\0", ":"}
    return name not in ("", ".", "..") and not any(mark in name for mark in separators)


def _read_file(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".bin":
        return read_torch_file(path)
    try:
        return load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise ConversionError(f"{path} is damaged or missing: {error}") from error


def read_torch_file(path: Path) -> dict[str, Tensor]:
    """The named tensors of a file that torch.save wrote, and nothing else."""
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for files that are not what they claim
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConversionError(f"{path} cannot be read as plain weights: {reason}") from error
    valid = isinstance(values, Mapping) and all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in values.items()
    )
    if not valid:
        raise ConversionError(f"{path} must hold named tensors and nothing else")
    return dict(values)

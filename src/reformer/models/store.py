"""A model on disk: a folder with config.json and model.safetensors.

config.json holds the model's own configuration under "reformer". The keys beside it are for
the Hugging Face ecosystem: ``transformers`` reads them and may add to them, this module needs
only "architectures". Nothing is unpickled. Shapes are checked against the config before any
weight is read. Saving replaces both files at once: whatever interrupts it, the folder holds the
old model or the new one.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from reformer import durable
from reformer.config import ConfigError, ReformerConfig

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
MODEL_TYPE = "reformer_core"

_FLOATS = {"F64", "F32", "F16", "BF16"}


class ModelError(ValueError):
    """A folder that does not hold a usable model; the message names the file and the reason."""


def write_model(
    folder: str | os.PathLike[str],
    architecture: str,
    config: ReformerConfig,
    tensors: Mapping[str, Tensor],
) -> None:
    """Write config.json and model.safetensors into ``folder``, which is made if needed.

    OSError when the disk fails; a model that the folder held before is then still there.
    """
    folder = Path(folder)
    durable.make_folder(folder)
    temporary = folder / (durable.TEMPORARY + "model")
    shutil.rmtree(temporary, ignore_errors=True)
    values = {
        "model_type": MODEL_TYPE,
        "architectures": [architecture],
        "reformer": config.to_dict(),
    }
    try:
        temporary.mkdir()
        write_tensors(temporary / WEIGHTS_FILE, tensors)
        text = json.dumps(values, indent=2) + "\n"
        (temporary / CONFIG_FILE).write_text(text, encoding="utf-8")
        durable.replace_files(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """A safetensors file; OSError when the disk fails, as with any other file."""
    contents = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    path.touch()
    mode = path.stat().st_mode
    try:
        save_file(contents, path)
        # Safetensors makes files that only their owner may read.
        path.chmod(mode)
    except SafetensorError as error:
        raise OSError(f"{path} could not be written: {error}") from error


def read_config(
    folder: str | os.PathLike[str], architecture: str | None = None
) -> tuple[str, ReformerConfig]:
    """Architecture and config of the model in ``folder``; ModelError when there is none to use.

    ``architecture`` is the one that must be there; None welcomes any.
    """
    path = durable.current_file(Path(folder), CONFIG_FILE)
    if not path.is_file():
        raise ModelError(f"{folder} is not a model: it has no {CONFIG_FILE}")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(values, dict):
        raise ModelError(f"{path} must hold one JSON object")
    found = values.get("architectures")
    if not isinstance(found, list) or len(found) != 1 or not isinstance(found[0], str):
        raise ModelError(
            f"{path}: architectures is {found!r}, which names no model of this library"
        )
    if architecture not in (None, found[0]):
        raise ModelError(f"{path} describes the architecture {found[0]!r}, not {architecture!r}")
    if not isinstance(values.get("reformer"), dict):
        raise ModelError(f'{path} has no "reformer" entry: it is not a model of this library')
    try:
        return found[0], ReformerConfig.from_dict(values["reformer"])
    except (ConfigError, TypeError) as error:
        raise ModelError(f"{path}: {error}") from error


def read_weights(
    folder: str | os.PathLike[str], expected: Mapping[str, Tensor], *, prefix: str = ""
) -> dict[str, Tensor]:
    """The weights in ``folder``; names and shapes must be exactly those of ``expected``.
    Names in the folder that do not begin with ``prefix`` are left alone.

    ``expected`` may be on the meta device: nothing is read before everything agrees.
    """
    path = durable.current_file(Path(folder), WEIGHTS_FILE)
    if not path.is_file():
        raise ModelError(f"{folder} is not a model: it has no {WEIGHTS_FILE}")
    try:
        with safe_open(path, framework="pt") as file:
            found = {name for name in file.keys() if name.startswith(prefix)}  # noqa: SIM118
            _check_names(path, found, set(expected))
            dtypes = {file.get_slice(name).get_dtype() for name in expected}
            if len(dtypes) > 1 or not dtypes <= _FLOATS:
                raise ModelError(
                    f"{path} holds {', '.join(sorted(dtypes))}: all tensors must have one type "
                    f"of {', '.join(sorted(_FLOATS))}"
                )
            for name, tensor in expected.items():
                shape = list(file.get_slice(name).get_shape())
                if shape != list(tensor.shape):
                    raise ModelError(
                        f"{path}: {name} is {shape}, but {CONFIG_FILE} asks for "
                        f"{list(tensor.shape)}"
                    )
            return {name: file.get_tensor(name) for name in expected}
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} is damaged: {error}") from error


def _check_names(path: Path, found: set[str], expected: set[str]) -> None:
    for what, names in (("lacks", expected - found), ("has an unknown tensor", found - expected)):
        if names:
            raise ModelError(f"{path} {what} {min(names)}")

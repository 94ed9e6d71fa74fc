"""Loading Hugging Face's Reformers as ours, and writing ours as theirs."""

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from reformer.config import ReformerConfig, Streams
from reformer.interop.checkpoint_files import CONFIG_FILE, WeightsFile, read_json, read_tensors
from reformer.interop.errors import ConversionError
from reformer.interop.huggingface.configuration import (
    BARE,
    CAUSAL,
    CLASSIFICATION,
    MASKED,
    QUESTION_ANSWERING,
    export_config,
    import_config,
)
from reformer.interop.huggingface.head_bias import ImportedBias, read_bias
from reformer.interop.huggingface.hub import download
from reformer.interop.huggingface.weights import export_tensors, import_tensors, pairs
from reformer.interop.window_rule import under_window_rule
from reformer.layers import Rule
from reformer.models.classification import ReformerForSequenceClassification
from reformer.models.features import ReformerModel
from reformer.models.language import ReformerForCausalLM
from reformer.models.masked_language import ReformerForMaskedLM
from reformer.models.pretrained import PretrainedReformer
from reformer.models.question_answering import ReformerForQuestionAnswering

MODELS: dict[str, type[PretrainedReformer]] = {
    CAUSAL: ReformerForCausalLM,
    MASKED: ReformerForMaskedLM,
    CLASSIFICATION: ReformerForSequenceClassification,
    QUESTION_ANSWERING: ReformerForQuestionAnswering,
    BARE: ReformerModel,
}


def load(
    source: Any,
    *,
    weights_file: WeightsFile = "model.safetensors",
    revision: str | None = None,
    streams: Streams = "float",
    head_bias: ImportedBias = "theirs",
    num_hashes: int | None = None,
    rule: Rule = "chunk",
) -> PretrainedReformer:
    """A Hugging Face Reformer as a model of this library, in evaluation mode.

    source: a folder, a hub id such as "google/reformer-enwik8", or a model object of theirs
    (whose weights are copied). weights_file: "pytorch_model.bin" for checkpoints without
    safetensors. revision: of a hub id. streams: "float" computes as theirs does; "exact" trains
    with gradients that do not drift. head_bias: "theirs" adds what transformers adds, which is
    lm_head.decoder.bias where there is one. Checkpoints of before version 5 were trained with
    lm_head.bias, which is now stored and not added; "added" adds it.
    num_hashes: rounds for every LSH layer, instead of the config's own. rule: "chunk" computes
    what theirs does; "window" is close to it, and generates with a cache. Raises
    ``ConversionError``.
    """
    if isinstance(source, (str, os.PathLike)):
        folder = find_folder(source, weights_file, revision)
        values, tensors = read_json(folder / CONFIG_FILE), read_tensors(folder, weights_file)
    else:
        values, tensors = _take_apart(source)
    if values.get("model_type") != "reformer":
        raise ConversionError(
            f"model_type is {values.get('model_type')!r}: this is not a Hugging Face Reformer"
        )
    architecture = _architecture(values)
    kind, tensors = read_bias(tensors, head_bias)
    config = import_config(values, architecture)
    config = dataclasses.replace(config, streams=streams, head_bias=kind)
    if num_hashes is not None:
        config = config.with_num_hashes(num_hashes)
    if rule == "window":
        config = under_window_rule(config)
    return _build(config, architecture, tensors)


def _build(
    config: ReformerConfig, architecture: str, tensors: Mapping[str, Tensor]
) -> PretrainedReformer:
    wanted = list(pairs(config, architecture))
    read = partial(import_tensors, tensors, wanted)
    return MODELS[architecture](config, read=read).eval()


def find_folder(
    source: str | os.PathLike[str], weights_file: WeightsFile, revision: str | None
) -> Path:
    """The folder of a checkpoint, fetched first if ``source`` is a hub id."""
    path = Path(source)
    if path.is_dir():
        if not (path / CONFIG_FILE).is_file():
            raise ConversionError(f"{path} has no {CONFIG_FILE}")
        return path
    if isinstance(source, str) and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source):
        return download(source, weights_file, revision)
    raise ConversionError(f"{source} is neither a folder nor a hub id such as owner/name")


def _take_apart(model: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration and weights of a model object."""
    if not hasattr(model, "state_dict") or not hasattr(getattr(model, "config", None), "to_dict"):
        raise ConversionError(f"{type(model).__name__} is neither a path nor a Hugging Face model")
    values = {**model.config.to_dict(), "architectures": [type(model).__name__]}
    if not isinstance(values.get("hidden_act"), str):
        raise ConversionError("hidden_act is a function: give it by name")
    return json.loads(json.dumps(values, default=str)), dict(model.state_dict())


def _architecture(values: Mapping[str, Any]) -> str:
    found = values.get("architectures")
    if not isinstance(found, list) or len(found) != 1:
        raise ConversionError(
            f"architectures is {found!r}: name the one of the weights, such as [{CAUSAL!r}]"
        )
    return str(found[0])


def export(model: PretrainedReformer, folder: str | os.PathLike[str]) -> None:
    """Write config.json and model.safetensors that transformers loads as its own Reformer.

    A bias of a language head needs transformers 5.24: see ``adds_bias``. Raises
    ``ConversionError`` for what theirs cannot express, before anything is written.
    """
    architecture = next((name for name, cls in MODELS.items() if type(model) is cls), None)
    if architecture is None:
        raise ConversionError(f"{type(model).__name__} has no equal in Hugging Face's Reformer")
    values = export_config(model.config, architecture)
    tensors = export_tensors(model.state_dict(), list(pairs(model.config, architecture)))
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    contents = {name: tensor.contiguous() for name, tensor in tensors.items()}
    part = folder / "model.safetensors.part"
    save_file(contents, part, metadata={"format": "pt"})
    os.replace(part, folder / "model.safetensors")
    part = folder / (CONFIG_FILE + ".part")
    part.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    os.replace(part, folder / CONFIG_FILE)


def adds_bias(model: PretrainedReformer) -> bool:
    """Whether a language head adds a bias: transformers does from 5.24, before it leaves it out."""
    has_bias = isinstance(model, (ReformerForCausalLM, ReformerForMaskedLM))
    added = has_bias and model.config.head_bias != "held"
    return added and bool(model.state_dict()["head.bias"].any())

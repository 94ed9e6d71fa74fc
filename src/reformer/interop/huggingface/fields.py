"""The fields of Hugging Face's ReformerConfig (transformers 5): defaults and types."""

import math
from collections.abc import Mapping
from typing import Any

from reformer.interop.errors import ConversionError

DEFAULTS: dict[str, Any] = {
    "attention_head_size": 64,
    "attn_layers": ("local", "lsh", "local", "lsh", "local", "lsh"),
    "axial_norm_std": 1.0,
    "axial_pos_embds": True,
    "axial_pos_shape": (64, 64),
    "axial_pos_embds_dim": (64, 192),
    "feed_forward_size": 512,
    "hash_seed": None,
    "hidden_act": "relu",
    "hidden_dropout_prob": 0.05,
    "hidden_size": 256,
    "initializer_range": 0.02,
    "is_decoder": False,
    "layer_norm_eps": 1e-12,
    "local_num_chunks_before": 1,
    "local_num_chunks_after": 0,
    "local_attention_probs_dropout_prob": 0.05,
    "local_attn_chunk_length": 64,
    "lsh_attn_chunk_length": 64,
    "lsh_attention_probs_dropout_prob": 0.0,
    "lsh_num_chunks_before": 1,
    "lsh_num_chunks_after": 0,
    "max_position_embeddings": 4096,
    "num_attention_heads": 12,
    "num_buckets": None,
    "num_hashes": 1,
    "vocab_size": 320,
    "tie_word_embeddings": False,
    "classifier_dropout": None,
    "problem_type": None,
    "id2label": None,
}
_OPTIONAL = {
    "hash_seed", "num_buckets", "classifier_dropout", "problem_type", "id2label",
    "lsh_attn_chunk_length", "local_attn_chunk_length",
}  # fmt: skip
_WHOLE = {"hash_seed", "num_buckets"}


def typed_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """Every field above from a config.json, or its default; a wrong type raises its name."""
    fields: dict[str, Any] = {}
    for name, default in DEFAULTS.items():
        value = values.get(name, default)
        if value is None:
            if name not in _OPTIONAL:
                raise ConversionError(f"{name} is null: it must have a value")
            fields[name] = None
        elif name == "num_buckets":
            fields[name] = (value,) if _is_whole(value) else _whole_numbers(name, value)
        elif name == "id2label":
            if not isinstance(value, Mapping):
                raise ConversionError(f"id2label is {value!r}: it must be an object of names")
            fields[name] = value
        elif isinstance(default, tuple):
            texts = isinstance(default[0], str)
            fields[name] = _texts(name, value) if texts else _whole_numbers(name, value)
        else:
            fields[name] = _scalar(name, value, default)
    return fields


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _scalar(name: str, value: Any, default: Any) -> Any:
    if isinstance(default, bool):
        valid, kind = isinstance(value, bool), "true or false"
    elif isinstance(default, str) or name == "problem_type":
        valid, kind = isinstance(value, str), "a text"
    elif isinstance(default, int) or name in _WHOLE:
        valid, kind = _is_whole(value), "a whole number"
    else:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        valid, kind = number and math.isfinite(value), "a number"
    if not valid:
        raise ConversionError(f"{name} is {value!r}: it must be {kind}")
    if "dropout" in name and not 0 <= value < 1:
        raise ConversionError(f"{name} is {value!r}: it must be from 0 up to, but not including, 1")
    return value


def _whole_numbers(name: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, (list, tuple)) or not value or not all(map(_is_whole, value)):
        raise ConversionError(f"{name} is {value!r}: it must be a list of whole numbers")
    return tuple(value)


def _texts(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(x, str) for x in value):
        raise ConversionError(f"{name} is {value!r}: it must be a list of names")
    return tuple(value)

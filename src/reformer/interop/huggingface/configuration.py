"""Hugging Face's Reformer configuration, in both directions.

Fields that have no bearing on what a model computes (token ids, chunk sizes that save memory,
deviations of the initial weights) travel in ``ReformerConfig.origin``, so that exporting gives
them back. Whatever cannot be kept raises ``ConversionError`` with the name of the field.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from reformer.config import (
    LSH,
    Activation,
    ConfigError,
    Labels,
    Layer,
    Local,
    Problem,
    ReformerConfig,
)
from reformer.interop.errors import ConversionError
from reformer.interop.huggingface.fields import DEFAULTS, typed_fields

CAUSAL = "ReformerModelWithLMHead"
MASKED = "ReformerForMaskedLM"
CLASSIFICATION = "ReformerForSequenceClassification"
QUESTION_ANSWERING = "ReformerForQuestionAnswering"
BARE = "ReformerModel"

# The first name of each is the one that an export of another origin gets.
_ACTIVATIONS: dict[Activation, tuple[str, ...]] = {
    "gelu": ("gelu", "gelu_python"),
    "gelu_tanh": ("gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_python_tanh"),
    "relu": ("relu",),
    "relu6": ("relu6",),
    "relu_squared": ("relu2",),
    "leaky_relu": ("leaky_relu",),
    "elu": ("elu",),
    "silu": ("silu", "swish"),
    "mish": ("mish",),
    "tanh": ("tanh",),
    "sigmoid": ("sigmoid",),
    "linear": ("linear",),
}
PROBLEMS: dict[Problem, str] = {
    "single_label": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regression": "regression",
}
# Our fields' names in Hugging Face's words, for errors.
_THEIR_NAMES = {
    "axial_shape": "axial_pos_shape",
    "axial_sizes": "axial_pos_embds_dim",
    "max_length": "max_position_embeddings",
    "num_heads": "num_attention_heads",
    "head_size": "attention_head_size",
    "norm_epsilon": "layer_norm_eps",
    "init_scale": "initializer_range",
    "window_length": "lsh_attn_chunk_length or local_attn_chunk_length",
    "chunks_before": "lsh_num_chunks_before or local_num_chunks_before",
    "chunks_after": "lsh_num_chunks_after or local_num_chunks_after",
    "layers": "attn_layers",
}


def import_config(values: Mapping[str, Any], architecture: str) -> ReformerConfig:
    """Our configuration of the model that ``values``, a config.json of theirs, describes."""
    theirs = typed_fields(values)
    _check_head(theirs, architecture)
    _check_chunks_after(theirs, architecture)
    shape, sizes = theirs["axial_pos_shape"], theirs["axial_pos_embds_dim"]
    longest = theirs["max_position_embeddings"]
    if theirs["axial_pos_embds"]:
        longest = min(longest, math.prod(shape))
    else:
        shape, sizes = (longest,), (theirs["hidden_size"],)
    scale = theirs["initializer_range"]
    try:
        return ReformerConfig(
            vocab_size=theirs["vocab_size"],
            hidden_size=theirs["hidden_size"],
            feed_forward_size=theirs["feed_forward_size"],
            num_heads=theirs["num_attention_heads"],
            head_size=theirs["attention_head_size"],
            max_length=longest,
            layers=tuple(_import_layer(kind, theirs, longest) for kind in theirs["attn_layers"]),
            causal=theirs["is_decoder"],
            axial_shape=shape,
            axial_sizes=sizes,
            activation=_activation(theirs["hidden_act"]),
            dropout=theirs["hidden_dropout_prob"],
            streams="float",
            norm_epsilon=theirs["layer_norm_eps"],
            # Theirs may be 0; it matters to new models only.
            init_scale=scale if scale > 0 else DEFAULTS["initializer_range"],
            hash_seed=theirs["hash_seed"],
            labels=_import_labels(theirs) if architecture == CLASSIFICATION else None,
            origin=dict(values),
        )
    except ConfigError as error:
        name, rest = str(error).split(" ", 1)
        raise ConversionError(f"{_THEIR_NAMES.get(name, name)} {rest}") from error


def _check_head(theirs: Mapping[str, Any], architecture: str) -> None:
    if architecture not in (CAUSAL, MASKED, CLASSIFICATION, QUESTION_ANSWERING, BARE):
        raise ConversionError(
            f"architectures is {architecture!r}: the Reformers are {CAUSAL}, {MASKED}, "
            f"{CLASSIFICATION}, {QUESTION_ANSWERING} and {BARE}"
        )
    wanted = {CAUSAL: True, MASKED: False}.get(architecture)
    if wanted is not None and theirs["is_decoder"] != wanted:
        raise ConversionError(
            f"is_decoder is {theirs['is_decoder']}: {architecture} needs is_decoder={wanted}"
        )
    if theirs["tie_word_embeddings"]:
        raise ConversionError(
            "tie_word_embeddings is True: the head is twice as wide as the embedding, so a "
            "Reformer has nothing to tie; set it to False"
        )
    if architecture == QUESTION_ANSWERING and num_labels(theirs) != 2:
        raise ConversionError(
            f"num_labels is {num_labels(theirs)}: question answering has 2, start and end"
        )


def _check_chunks_after(theirs: Mapping[str, Any], architecture: str) -> None:
    """Their causal language model refuses later chunks; their other decoders mask them."""
    for kind in theirs["attn_layers"]:
        name = f"{kind}_num_chunks_after"
        if architecture == CAUSAL and theirs.get(name):
            raise ConversionError(f"{name} is {theirs[name]}: {CAUSAL} needs 0")


def _import_layer(kind: str, theirs: Mapping[str, Any], longest: int) -> Layer:
    if kind == "local":
        return Local(
            window_length=_chunk_length(theirs, "local"),
            rule="chunk",
            chunks_before=theirs["local_num_chunks_before"],
            chunks_after=theirs["local_num_chunks_after"],
            dropout=theirs["local_attention_probs_dropout_prob"],
        )
    if kind == "lsh":
        return LSH(
            num_hashes=theirs["num_hashes"],
            window_length=_chunk_length(theirs, "lsh"),
            num_buckets=theirs["num_buckets"] or automatic_num_buckets(theirs, longest),
            rule="chunk",
            chunks_before=theirs["lsh_num_chunks_before"],
            chunks_after=theirs["lsh_num_chunks_after"],
            dropout=theirs["lsh_attention_probs_dropout_prob"],
        )
    raise ConversionError(f"attn_layers holds {kind!r}: the layers are 'lsh' and 'local'")


def _chunk_length(theirs: Mapping[str, Any], kind: str) -> int:
    name = f"{kind}_attn_chunk_length"
    if theirs[name] is None or theirs[name] < 1:
        raise ConversionError(f"{name} is {theirs[name]}: it must be a positive number")
    return int(theirs[name])


def automatic_num_buckets(theirs: Mapping[str, Any], length: int) -> tuple[int, ...]:
    """The buckets that theirs picks when num_buckets is None and the first input is this long."""
    chunk = _chunk_length(theirs, "lsh")
    bits = max(1, (2 * (length // chunk)).bit_length() - 1)
    most = 2 * max(math.isqrt(theirs["max_position_embeddings"] // chunk), chunk)
    if 1 << bits > most:
        return (1 << (bits // 2), 1 << (bits - bits // 2))
    return (1 << bits,)


def _activation(name: str) -> Activation:
    for ours, names in _ACTIVATIONS.items():
        if name in names:
            return ours
    known = ", ".join(sorted(name for names in _ACTIVATIONS.values() for name in names))
    raise ConversionError(f"hidden_act is {name!r}, which has no equal here; there are {known}")


def num_labels(theirs: Mapping[str, Any]) -> int:
    """How many labels a configuration names; 2 by default."""
    return len(theirs["id2label"]) if theirs["id2label"] else 2


def _import_labels(theirs: Mapping[str, Any]) -> Labels:
    count = num_labels(theirs)
    names = None
    if theirs["id2label"]:
        by_id = {str(index): name for index, name in theirs["id2label"].items()}
        if set(by_id) != {str(index) for index in range(count)}:
            raise ConversionError(f"id2label must name the ids 0 to {count - 1}, each once")
        names = tuple(str(by_id[str(index)]) for index in range(count))
    problem = theirs["problem_type"]
    if problem is None:  # theirs decides by the first labels that it sees
        problem = "regression" if count == 1 else "single_label_classification"
    ours = {name: key for key, name in PROBLEMS.items()}
    if problem not in ours:
        raise ConversionError(f"problem_type is {problem!r}: it must be one of {', '.join(ours)}")
    return Labels(
        num_labels=count, problem=ours[problem], names=names, dropout=theirs["classifier_dropout"]
    )


def export_config(config: ReformerConfig, architecture: str) -> dict[str, Any]:
    """Their config.json for our model; ``ConversionError`` names what theirs cannot express."""
    origin = dict(config.origin or {})
    known = typed_fields(origin)
    values: dict[str, Any] = {
        **DEFAULTS,
        # Unlike theirs, ours has no special tokens of its own.
        "eos_token_id": None,
        "pad_token_id": 0,
        **origin,
        "architectures": [architecture],
        "model_type": "reformer",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "feed_forward_size": config.feed_forward_size,
        "num_attention_heads": config.num_heads,
        "attention_head_size": config.head_size,
        "num_hidden_layers": len(config.layers),
        "attn_layers": ["lsh" if isinstance(layer, LSH) else "local" for layer in config.layers],
        "is_decoder": config.causal,
        "hidden_dropout_prob": config.dropout,
        "layer_norm_eps": config.norm_epsilon,
        "hash_seed": config.hash_seed,
    }
    if not config.origin or known["initializer_range"] > 0:
        values["initializer_range"] = config.init_scale
    if known["hidden_act"] not in _ACTIVATIONS[config.activation]:
        values["hidden_act"] = _ACTIVATIONS[config.activation][0]
    values |= _export_positions(config, known)
    values |= _export_layers(config, known)
    _check_chunks_after(values, architecture)
    if config.labels is not None:
        values |= _export_labels(config.labels, known)
    for name, only in (("streams_end", "concatenated"), ("attention_bias", "none")):
        if getattr(config, name) != only:
            raise ConversionError(f"{name} is {getattr(config, name)!r}: Hugging Face has {only!r}")
    if config.dropout > 0 and config.dropout_shared:
        raise ConversionError("dropout_shared is True: Hugging Face drops each position apart")
    return values


def _export_positions(config: ReformerConfig, known: Mapping[str, Any]) -> dict[str, Any]:
    shape, sizes = config.position_shape, config.position_sizes
    longest = config.max_length
    if len(shape) == 1:
        return {"axial_pos_embds": False, "max_position_embeddings": shape[0]}
    if config.origin and min(known["max_position_embeddings"], math.prod(shape)) == longest:
        longest = known["max_position_embeddings"]
    return {
        "axial_pos_embds": True,
        "axial_pos_shape": list(shape),
        "axial_pos_embds_dim": list(sizes),
        "max_position_embeddings": longest,
    }


def _export_layers(config: ReformerConfig, known: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for kind, prefix in ((LSH, "lsh"), (Local, "local")):
        layers = [(i, layer) for i, layer in enumerate(config.layers) if type(layer) is kind]
        for index, layer in layers:
            _check_layer(index, layer, layers[0])
        if layers:
            layer = layers[0][1]
            values |= {
                f"{prefix}_attn_chunk_length": layer.window_length,
                f"{prefix}_num_chunks_before": layer.chunks_before,
                f"{prefix}_num_chunks_after": layer.chunks_after,
                f"{prefix}_attention_probs_dropout_prob": layer.dropout,
            }
            if isinstance(layer, LSH):
                values["num_hashes"] = layer.num_hashes
                values |= _export_buckets(config, layer, known)
    others = [i for i, layer in enumerate(config.layers) if not isinstance(layer, (LSH, Local))]
    if others:
        raise ConversionError(f"layers[{others[0]}] is Full: Hugging Face has lsh and local only")
    return values


def _export_buckets(config: ReformerConfig, layer: LSH, known: Mapping[str, Any]) -> dict[str, Any]:
    factors = layer.num_buckets
    if factors is None:
        raise ConversionError(
            "num_buckets is None: give LSH layers a number, which theirs can keep"
        )
    given = (factors,) if isinstance(factors, int) else factors
    if any(factor % 2 for factor in given):
        raise ConversionError(f"num_buckets is {factors}: Hugging Face's factors are even")
    automatic = config.origin and not known["num_buckets"]
    if automatic and given == automatic_num_buckets(known, config.max_length):
        return {"num_buckets": None}
    return {"num_buckets": given[0] if len(given) == 1 else list(given)}


def _check_layer(index: int, layer: Layer, first: tuple[int, Layer]) -> None:
    where = f"layers[{index}]"
    if isinstance(layer, (LSH, Local)) and layer.rule != "chunk":
        raise ConversionError(
            f"{where}.rule is {layer.rule!r}: Hugging Face has the chunk rule only"
        )
    if isinstance(layer, LSH) and layer.score_scale != 1:
        raise ConversionError(f"{where}.score_scale is {layer.score_scale}: Hugging Face's is 1")
    if isinstance(layer, Local) and layer.rotary_base is not None:
        raise ConversionError(f"{where}.rotary_base is {layer.rotary_base}: theirs has no rotary")
    for field in dataclasses.fields(layer):
        ours, other = getattr(layer, field.name), getattr(first[1], field.name)
        if ours != other:
            raise ConversionError(
                f"{where}.{field.name} is {ours!r} and layers[{first[0]}]'s is {other!r}: Hugging "
                "Face has one value for all layers of a kind"
            )


def _export_labels(labels: Labels, known: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {"classifier_dropout": labels.dropout}
    derived = "regression" if labels.num_labels == 1 else "single_label"
    if known["problem_type"] is not None or labels.problem != derived:
        values["problem_type"] = PROBLEMS[labels.problem]
    names = labels.names or tuple(f"LABEL_{index}" for index in range(labels.num_labels))
    if labels.names is not None or labels.num_labels != 2:
        values["id2label"] = {str(index): name for index, name in enumerate(names)}
        values["label2id"] = {name: index for index, name in enumerate(names)}
    return values

"""What a model is: frozen dataclasses with no dependencies.

A model is a tuple of layer types, ``LSH | Local | Full``, and the widths that they share.
Every value is checked when the object is made; an error names the field, the value and
what would work.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from reformer.checks import ConfigError as ConfigError
from reformer.checks import require, require_choice, require_count, require_positive, require_rate
from reformer.layers import LSH as LSH
from reformer.layers import Full as Full
from reformer.layers import Layer as Layer
from reformer.layers import Local as Local

Streams = Literal["exact", "float", "stored"]
Activation = Literal[
    "gelu", "gelu_tanh", "relu", "relu6", "relu_squared", "leaky_relu",
    "elu", "silu", "mish", "tanh", "sigmoid", "linear",
]  # fmt: skip
HeadBias = Literal["added", "held", "both"]
StreamsEnd = Literal["concatenated", "averaged"]
AttentionBias = Literal["none", "output"]
Problem = Literal["single_label", "multi_label", "regression"]
Pooling = Literal["first", "mean"]


# Numbers in one matrix: 4 TB in float32.
_LARGEST_MATRIX = 1 << 40
# Numbers in the projections of one layer's hashing: 1 GB.
_MOST_PROJECTIONS = 1 << 28
_LONGEST_CHUNK = 1 << 20


_KINDS: dict[str, type[Layer]] = {"lsh": LSH, "local": Local, "full": Full}


def _require_layers(name: str, layers: object) -> None:
    valid = isinstance(layers, tuple) and len(layers) > 0
    require(valid, name, layers, "it must be a tuple with at least one layer")
    for layer in layers if isinstance(layers, tuple) else ():
        require(isinstance(layer, Layer), name, layer, "use LSH(...), Local(...), Full(...)")


def _lsh_with(layers: tuple[Layer, ...], **changes: Any) -> tuple[Layer, ...]:
    return tuple(
        dataclasses.replace(layer, **changes) if isinstance(layer, LSH) else layer
        for layer in layers
    )


@dataclass(frozen=True)
class Labels:
    """What a classification head predicts."""

    num_labels: int = 2
    """Number of classes, or of values for a regression."""
    problem: Problem = "single_label"
    """One class per sequence, any number of classes, or real numbers."""
    names: tuple[str, ...] | None = None
    """A name for each label, in order of their ids."""
    dropout: float | None = None
    """Dropout inside the head; None: as much as in the layers."""
    pooling: Pooling = "first"
    """What stands for a sequence: its first token, as in Hugging Face, or the mean of all tokens,
    which needs no layers that bring everything to one place."""

    def __post_init__(self) -> None:
        require_count("num_labels", self.num_labels)
        require_choice("problem", self.problem, get_args(Problem))
        require_choice("pooling", self.pooling, get_args(Pooling))
        fix = f"it must hold {self.num_labels} names, one for each label"
        valid = isinstance(self.names, tuple) and all(isinstance(n, str) for n in self.names)
        valid = valid and len(self.names or ()) == self.num_labels
        require(self.names is None or valid, "names", self.names, fix)
        if self.dropout is not None:
            require_rate("dropout", self.dropout)


@dataclass(frozen=True)
class ReformerConfig:
    """A Reformer: widths, lengths, and one attention type per layer."""

    vocab_size: int = 256
    """Number of token ids; 256 for bytes."""
    hidden_size: int = 256
    """Width of each of the two streams, D."""
    feed_forward_size: int = 512
    """Inner width of the feed-forward layers."""
    num_heads: int = 4
    """Attention heads, H."""
    head_size: int = 64
    """Width of a head, K; need not be hidden_size / num_heads."""
    max_length: int = 4096
    """Longest sequence, in tokens; any shorter one is welcome too."""
    layers: tuple[Layer, ...] = (Local(), LSH())
    """One attention type per layer; each layer is attention followed by feed-forward."""
    causal: bool = True
    """True: a token sees earlier tokens only (language models). False: both sides."""
    axial_shape: tuple[int, ...] | None = None
    """Axes of the position table, product at least max_length. None: nearly square, rank 2."""
    axial_sizes: tuple[int, ...] | None = None
    """Width of each axis' embedding; they sum to hidden_size. None: split evenly."""
    activation: Activation = "gelu"
    """Non-linearity of the feed-forward layers."""
    dropout: float = 0.0
    """Share of each layer's output that is dropped in training."""
    dropout_shared: bool = False
    """True: one dropout mask for all positions of a sequence, as in Trax."""
    streams: Streams = "exact"
    """"exact" (fixed point, rebuilt bit for bit), "float", or "stored" (nothing is rebuilt)."""
    norm_epsilon: float = 1e-6
    """Added to the variance in layer normalisation."""
    init_scale: float = 0.3
    """Standard deviation of a new model's token embeddings, and of its first logits."""
    position_scale: float = 0.1
    """Deviation of a new model's position tables, as a share of ``init_scale``; 1 or more where
    positions matter as much as tokens do."""
    num_levels: int = 0
    """Token ids below this are levels of one quantity, such as brightness: in a new model those
    that are near to each other begin alike."""
    slice_length: int = 16384
    """Positions that the feed-forward layers and the loss handle at a time; a memory choice."""
    seed: int = 0
    """Fixes weights, hash rotations and dropout. Never touches torch's global generator."""
    hash_seed: int | None = None
    """None: each layer, and each training step, has rotations of its own, which ``seed`` fixes.
    A number: the rotations drawn from it serve every layer and step, as in Hugging Face."""
    head_bias: HeadBias = "added"
    """Language models: "held" stores a bias of the head without adding it, as Hugging Face's
    Reformer does with lm_head.bias; "both" adds one and stores another beside it."""
    streams_end: StreamsEnd = "concatenated"
    """What heads read of the two streams: both side by side (Trax, Hugging Face), or their mean
    (reformer-pytorch)."""
    attention_bias: AttentionBias = "none"
    """"output": attention layers add a bias to what they write, as in reformer-pytorch."""
    encoder_layers: tuple[Layer, ...] | None = None
    """Models with an encoder and a decoder: the encoder's layers, which see both sides; ``layers``
    are then the decoder's. All other sizes are those of both."""
    labels: Labels | None = None
    """What a classification head predicts; other heads need none."""
    origin: Mapping[str, Any] | None = field(default=None, compare=False)
    """An imported model's first configuration, with the fields that mean nothing here, so that
    exporting it again keeps them."""

    def __post_init__(self) -> None:
        for name in ("vocab_size", "hidden_size", "feed_forward_size", "num_heads", "head_size"):
            require_count(name, getattr(self, name))
        require_count("max_length", self.max_length)
        require_count("slice_length", self.slice_length)
        for name in ("seed", "num_levels"):
            require_count(name, getattr(self, name), least=0)
        fix = f"it can be at most vocab_size ({self.vocab_size})"
        require(self.num_levels <= self.vocab_size, "num_levels", self.num_levels, fix)
        require_rate("dropout", self.dropout)
        require_choice("streams", self.streams, ("exact", "float", "stored"))
        require_choice("activation", self.activation, get_args(Activation))
        require_choice("head_bias", self.head_bias, get_args(HeadBias))
        require_choice("streams_end", self.streams_end, get_args(StreamsEnd))
        require_choice("attention_bias", self.attention_bias, get_args(AttentionBias))
        valid = self.labels is None or isinstance(self.labels, Labels)
        require(valid, "labels", self.labels, "use Labels(...), or None for other heads")
        if self.hash_seed is not None:
            require_count("hash_seed", self.hash_seed, least=0)
        for name in ("norm_epsilon", "init_scale", "position_scale"):
            require_positive(name, getattr(self, name))
        for name in ("causal", "dropout_shared"):
            value = getattr(self, name)
            require(isinstance(value, bool), name, value, "it must be true or false")
        self._check_layers()
        self._check_axial()
        self._check_sizes()

    def _check_layers(self) -> None:
        _require_layers("layers", self.layers)
        if self.encoder_layers is not None:
            _require_layers("encoder_layers", self.encoder_layers)
        for layer in self.all_layers:
            if isinstance(layer, LSH):
                self._check_hashing(layer)
                self._check_values(layer)
            if not isinstance(layer, Full) and layer.rule == "chunk":
                self._check_chunks(layer)
            rotary = not isinstance(layer, LSH) and layer.rotary_base is not None
            fix = "rotary positions need an even head_size"
            require(not rotary or self.head_size % 2 == 0, "head_size", self.head_size, fix)

    def _check_values(self, layer: LSH) -> None:
        sees_both_sides = not self.causal or layer in (self.encoder_layers or ())
        fix = 'a layer that sees both sides needs no step to the next token: use values="own"'
        require(layer.values == "own" or not sees_both_sides, "values", layer.values, fix)

    def _check_chunks(self, layer: LSH | Local) -> None:
        longest = max(self.max_length, _LONGEST_CHUNK)
        fix = f"chunks of more than {longest} tokens hold nothing but padding"
        require(layer.window_length <= longest, "window_length", layer.window_length, fix)
        fix = f"a sequence of max_length {self.max_length} has no more chunks than tokens"
        for name in ("chunks_before", "chunks_after"):
            number = getattr(layer, name)
            require(number <= self.max_length, name, number, fix)

    def _check_hashing(self, layer: LSH) -> None:
        factors = layer.num_buckets or 2
        columns = sum(factors) if isinstance(factors, tuple) else factors
        if isinstance(factors, int) and factors & (factors - 1) == 0:
            columns = 3 * math.isqrt(factors)  # hashing splits powers of two into factors itself
        numbers = self.num_heads * self.head_size * layer.num_hashes * columns // 2
        fix = f"with num_hashes {layer.num_hashes} that is {numbers} projections: use fewer"
        require(numbers < _MOST_PROJECTIONS, "num_buckets", layer.num_buckets, fix)

    def _check_sizes(self) -> None:
        inner = self.num_heads * self.head_size
        widest = max(self.vocab_size, self.feed_forward_size, inner, *self.position_shape)
        require(
            2 * self.hidden_size * widest < _LARGEST_MATRIX,
            "hidden_size",
            self.hidden_size,
            f"with a width or extent of {widest} beside it, one matrix would not fit any machine",
        )

    def _check_axial(self) -> None:
        if self.axial_shape is None and self.axial_sizes is not None:
            raise ConfigError(f"axial_sizes is {self.axial_sizes!r}: give axial_shape with it")
        for name in ("axial_shape", "axial_sizes"):
            value = getattr(self, name)
            valid = value is None or (isinstance(value, (tuple, list)) and len(value) > 0)
            require(valid, name, value, "it must be a tuple of whole numbers, or None")
        shape, sizes = self.position_shape, self.position_sizes
        for name, numbers in (("axial_shape", shape), ("axial_sizes", sizes)):
            for number in numbers:
                require_count(name, number)
        fix = f"its product must be at least max_length ({self.max_length})"
        require(math.prod(shape) >= self.max_length, "axial_shape", shape, fix)
        require(
            len(sizes) == len(shape) and sum(sizes) == self.hidden_size,
            "axial_sizes",
            sizes,
            f"it needs {len(shape)} widths that sum to hidden_size ({self.hidden_size})",
        )

    @property
    def all_layers(self) -> tuple[Layer, ...]:
        """The layers, after those of the encoder where there is one."""
        return (self.encoder_layers or ()) + self.layers

    @property
    def features_size(self) -> int:
        """Width of what heads read."""
        return self.hidden_size * (2 if self.streams_end == "concatenated" else 1)

    @property
    def position_shape(self) -> tuple[int, ...]:
        """The position table's axes: ``axial_shape``, or a nearly square pair."""
        if self.axial_shape is not None:
            return tuple(self.axial_shape)
        if self.hidden_size == 1:
            return (self.max_length,)
        rows = 1 << (max(self.max_length - 1, 0).bit_length() // 2)
        return (rows, -(-self.max_length // rows))

    @property
    def position_sizes(self) -> tuple[int, ...]:
        """Widths of the axes: ``axial_sizes``, or hidden_size split as evenly as it goes."""
        if self.axial_sizes is not None:
            return tuple(self.axial_sizes)
        rank = len(self.position_shape)
        share, rest = divmod(self.hidden_size, rank)
        return tuple(share + (axis >= rank - rest) for axis in range(rank))

    def with_num_hashes(self, num_hashes: int) -> ReformerConfig:
        """This config with another number of rounds in every LSH layer; weights stay valid."""
        encoder = self.encoder_layers
        return dataclasses.replace(
            self,
            layers=_lsh_with(self.layers, num_hashes=num_hashes),
            encoder_layers=None if encoder is None else _lsh_with(encoder, num_hashes=num_hashes),
        )

    def seeing_both_sides(self) -> ReformerConfig:
        """This config with causal=False, and so with the tokens' own values in every LSH layer."""
        layers = _lsh_with(self.layers, values="own")
        return dataclasses.replace(self, causal=False, layers=layers)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; each layer carries its ``kind``."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        names = {cls: kind for kind, cls in _KINDS.items()}
        for name in ("layers", "encoder_layers"):
            if values[name] is not None:
                values[name] = [
                    {"kind": names[type(layer)], **dataclasses.asdict(layer)}
                    for layer in values[name]
                ]
        if self.labels is not None:
            values["labels"] = dataclasses.asdict(self.labels)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ReformerConfig:
        """The inverse of ``to_dict``; unknown or malformed fields raise ConfigError."""
        values = dict(values)
        if isinstance(values.get("labels"), Mapping):
            values["labels"] = _build(Labels, values["labels"])
        for name in ("layers", "encoder_layers"):
            if name in values and (values[name] is not None or name == "layers"):
                require(isinstance(values[name], (list, tuple)), name, values[name], "use a list")
                values[name] = tuple(_layer_from_dict(name, layer) for layer in values[name])
        return _build(cls, values)


def _layer_from_dict(name: str, values: Any) -> Layer:
    require(isinstance(values, Mapping), name, values, 'each layer must be {"kind": …}')
    kind = values.get("kind")
    require(isinstance(kind, str) and kind in _KINDS, "kind", kind, "use lsh, local or full")
    return _build(_KINDS[kind], {k: v for k, v in values.items() if k != "kind"})


def _build(cls: Any, values: Mapping[str, Any]) -> Any:
    known = {f.name for f in dataclasses.fields(cls)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ConfigError(
            f"{cls.__name__} has no field {unknown[0]!r}; it has {', '.join(sorted(known))}"
        )
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})

"""The memory that a training run is expected to need, term by term."""

import dataclasses
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from reformer.config import LSH, ConfigError, Full, Layer, ReformerConfig
from reformer.models.encoder_decoder import EncoderDecoder
from reformer.models.reformer import Reformer
from reformer.ops.hashing import default_num_buckets, smallest_integer
from reformer.settings import TrainingSettings
from reformer.training.allocator import OWN_PAGES

_FLOAT = 4
_INTEGER = 8
_MOMENT = {"float32": 4, "bfloat16": 2}
_LARGE_PAGE = 2 << 20
_BASE = 290 * 2**20
"""Python, torch and its libraries, measured."""
_ROUNDING = 30 * 2**20
"""What rounding a stream to the fixed-point grid takes, and scratch memory of the kernels."""
_LARGEST_OF_MANY = 16 << 20
"""Scratch of a head from which on threads work at one together (kernels/cpu/each_head.h)."""
_MOST_KEPT = 64 << 20
"""Scratch that the kernels keep between calls, at most (kernels/cpu/arena.h)."""
_KEEP_RESULT = ("relu", "tanh", "sigmoid", "linear")
"""Activations that are differentiated from their result alone."""
_SMALLEST_SLICE = 256
"""Shorter slices save next to nothing and take more time."""


@dataclass(frozen=True)
class Term:
    """Expected bytes, for what, and how they come about."""

    name: str
    size: int
    explanation: str


@dataclass(frozen=True)
class Plan:
    """The memory of a training step at its peak."""

    num_parameters: int
    terms: tuple[Term, ...]

    @property
    def total(self) -> int:
        """All terms together."""
        return sum(term.size for term in self.terms)

    def size(self, name: str) -> int:
        """The bytes of one term."""
        return next(term.size for term in self.terms if term.name == name)


def count_parameters(config: ReformerConfig) -> int:
    """Weights of the language model with this config; nothing is allocated."""
    return sum(_tensor_sizes(config))


def _tensor_sizes(config: ReformerConfig) -> list[int]:
    """The numbers in each of that model's parameters."""
    kind = Reformer if config.encoder_layers is None else EncoderDecoder
    with torch.device("meta"):
        trunk = kind(config)
    head = [config.features_size * config.vocab_size, config.vocab_size]
    return [parameter.numel() for parameter in trunk.parameters()] + head


def plan(config: ReformerConfig, settings: TrainingSettings) -> Plan:
    """Estimate the peak of one training step of a language model, on a CPU."""
    tensors = _tensor_sizes(config)
    weights = sum(tensors)
    positions = settings.batch_size * config.max_length
    work = _Work(config, settings, positions)
    terms = [
        Term("parameters", _in_pages(tensors, _FLOAT), f"{weights:,} numbers in float32"),
        _gradients(tensors, settings),
        Term(
            "optimizer moments",
            2 * _in_pages(tensors, _MOMENT[settings.moments]),
            f"two numbers for each parameter (AdamW) in {settings.moments}",
        ),
        Term(
            "token ids", 4 * positions * _INTEGER, f"{positions:,} ids, labels, targets, positions"
        ),
        Term(
            "streams",
            2 * work.stream,
            f"two of [{positions:,}, {config.hidden_size}]: all that is kept of the layers",
        ),
        Term(
            "gradients of the streams",
            2 * work.stream,
            "one for each, as the layers pass them on",
        ),
        Term("buckets", work.buckets(), "of each LSH layer, kept so that it hashes once"),
    ]
    if config.encoder_layers is not None:
        size = 2 * work.stream + 3 * work.features
        terms.append(Term("encoder", size, "its streams, its output, and the gradient of that"))
    if config.streams == "stored":
        stored = sum(work.stored(layer) for layer in config.all_layers)
        terms.append(Term("stored activations", stored, "of every layer; streams='exact': none"))
    name, size, explanation = max(work.phases(), key=lambda phase: phase[1])
    terms += [
        Term(f"at work: {name}", size, explanation),
        Term("Python and torch", _BASE + _ROUNDING, "the libraries, and their scratch memory"),
    ]
    return Plan(weights, tuple(terms))


def _in_pages(tensors: list[int], number: int) -> int:
    """Bytes of tensors with so many numbers; a large one is held in whole large pages."""
    sizes = (count * number for count in tensors)
    return sum(
        size if size < OWN_PAGES else -(-size // _LARGE_PAGE) * _LARGE_PAGE for size in sizes
    )


def _gradients(tensors: list[int], settings: TrainingSettings) -> Term:
    if settings.gradients == "kept":
        return Term("gradients", _in_pages(tensors, _FLOAT), "one number for each parameter")
    # Where moments are narrow, both of the tensor in float32 and their rounding as well.
    copies = 1 if settings.moments == "float32" else 4
    return Term("gradients", max(tensors) * copies * _FLOAT, "of the largest tensor, then freed")


class _Work:
    """Bytes that one branch, or the loss, needs while it is differentiated."""

    def __init__(self, config: ReformerConfig, settings: TrainingSettings, positions: int) -> None:
        self.config, self.positions = config, positions
        self.low_precision = settings.precision == "bfloat16"
        self.is_stored = config.streams == "stored"
        self.stream = positions * config.hidden_size * _FLOAT
        self.features = positions * config.features_size * _FLOAT
        self.in_slice = min(positions, config.slice_length)
        number = 2 if self.low_precision else _FLOAT
        self.heads = positions * config.num_heads * config.head_size * number

    def phases(self) -> list[tuple[str, int, str]]:
        """(name, bytes, explanation) of what may be the peak."""
        attention = max(self.attention(layer) for layer in self.config.all_layers)
        # The last layer still has both gradients from the loss beside the first of its own.
        attention = max(attention, self.attention(self.config.layers[-1]) + self.stream)
        if self.config.encoder_layers is not None:
            attention = max(attention, self.attention(Full()) + 2 * self.features)
        kept = self._kept_scratch()
        return [
            ("attention", attention, "one layer's activations in all heads, and their gradients"),
            ("feed-forward", kept + self.feed_forward(), f"{self.in_slice:,} positions at a time"),
            ("loss", kept + self.loss(), f"the logits of {self.in_slice:,} positions at a time"),
        ]

    def attention(self, layer: Layer) -> int:
        """Recomputed, then differentiated: the larger of two moments."""
        kept, copies = self._activations(layer), 2 if isinstance(layer, LSH) else 3
        # The gradient of what comes out of the heads, and of what goes into them.
        in_heads = kept + (1 + copies) * self.heads
        output = self.stream // 2 if self.low_precision else self.stream
        if self.low_precision:
            in_heads += output  # its gradient, in bfloat16
        in_heads += self._kernel_scratch(layer)
        # After it: gradients by projection of the norm's output, summed up.
        in_projections = 2 * self.stream + copies * self.heads + 2 * self.stream
        if self.is_stored:  # nothing is recomputed, and the layer's feed-forward is done with
            return in_heads - kept - 2 * self.stream
        return max(in_heads, kept + output, in_projections)

    def _activations(self, layer: Layer) -> int:
        """Input, its norm, query, key and value; the heads' output and its copy side by side."""
        copies = 2 if isinstance(layer, LSH) else 3
        # Under autocast each projection has its own narrow copy of the norm.
        norm = copies * self.stream // 2 if self.low_precision else self.stream
        per_head = self.positions * self.config.num_heads
        # Of every round, the order and the codes; once, the logarithm of the softmax's sum.
        rounds = 2 * layer.num_hashes if isinstance(layer, LSH) else 0
        orders = per_head * (1 + rounds) * _FLOAT
        return self.stream + norm + (copies + 2) * self.heads + orders

    def _kernel_scratch(self, layer: Layer) -> int:
        """What the native kernel gathers of all tokens of each head at work.

        Where there is an order: rows of query, value and upstream gradient, codes, and sums of
        both gradients. Else, where gradients are narrower than float32: sums of all three.
        """
        sums = 2 if isinstance(layer, LSH) else 3 * int(self.low_precision)
        numbers = sums * self.config.head_size * _FLOAT
        if isinstance(layer, LSH):
            rows = 3 * self.config.head_size * (2 if self.low_precision else _FLOAT)
            numbers += rows + (layer.num_hashes + 4) * _FLOAT
        head = self.config.max_length * numbers
        return head * self._heads_at_once() if head <= _LARGEST_OF_MANY else head

    def _heads_at_once(self) -> int:
        """Each thread has a head of its own where that shares them out evenly."""
        threads = torch.get_num_threads()
        rows = self.positions // self.config.max_length * self.config.num_heads
        return threads if rows % threads == 0 or rows >= 4 * threads else 1

    def _kept_scratch(self) -> int:
        """What the native kernels keep of it for their next call."""
        scratch = max(self._kernel_scratch(layer) for layer in self.config.all_layers)
        return scratch if scratch <= _MOST_KEPT else 0

    def feed_forward(self) -> int:
        """Input, norm and gradient as wholes, and the output where it is made in slices."""
        inner = 3 * self.config.feed_forward_size + 2 * self.config.hidden_size
        wholes = 1 if self.is_stored else 3 + (self.in_slice < self.positions)
        return wholes * self.stream + self.in_slice * inner * _FLOAT

    def loss(self) -> int:
        """Logits, their logarithms and gradients, and the head's own gradients, beside both
        streams as floats."""
        wide = 5 if self.low_precision else 3
        width = wide * self.config.vocab_size + 3 * self.config.features_size
        head = 2 * self.config.features_size * self.config.vocab_size * _FLOAT
        return 2 * self.stream + self.in_slice * width * _FLOAT + head

    def buckets(self) -> int:
        """The smallest integer that holds a bucket's number, for each head and round."""
        rounds = self.positions * self.config.num_heads
        return sum(
            rounds * layer.num_hashes * _bucket_bytes(self.config, layer)
            for layer in self.config.all_layers
            if isinstance(layer, LSH)
        )

    def stored(self, layer: Layer) -> int:
        """What the graphs of both branches of a layer hold."""
        feed_forward = 2 * self.stream
        if self.in_slice == self.positions:
            copies = 1 if self.config.activation in _KEEP_RESULT else 2
            feed_forward += copies * self.positions * self.config.feed_forward_size * _FLOAT
        return self._activations(layer) + feed_forward


def _bucket_bytes(config: ReformerConfig, layer: LSH) -> int:
    buckets = layer.num_buckets or default_num_buckets(config.max_length, layer.window_length)
    count = buckets if isinstance(buckets, int) else math.prod(buckets)
    return smallest_integer(count).itemsize


def fit(config: ReformerConfig, settings: TrainingSettings, available: int) -> ReformerConfig:
    """The config with the longest slices that fit into ``available`` bytes.

    Feed-forward layers and the loss then handle fewer positions at a time; the results are the
    same up to rounding. ConfigError when even the shortest slices do not fit.
    """
    length = config.slice_length
    while plan(config, settings).total > available and length > _SMALLEST_SLICE:
        length = max(_SMALLEST_SLICE, length // 2)
        config = dataclasses.replace(config, slice_length=length)
    require_memory(plan(config, settings), available)
    return config


def machine_memory() -> int:
    """Bytes of memory that this process may use: the machine's, or its control group's."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    try:
        return min(total, int(limit.read_text()))
    except (OSError, ValueError):
        return total


def require_memory(expected: Plan, available: int) -> None:
    """ConfigError when the run cannot fit in ``available`` bytes."""
    if expected.total > available:
        raise ConfigError(
            f"training needs about {format_bytes(expected.total)} of memory, and there are "
            f"{format_bytes(available)}: lower the length, the batch size or the model's sizes"
        )


def format_bytes(size: float) -> str:
    """A size for people, such as "1.4 GB"."""
    for unit in ("bytes", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit in ("bytes", "KB") else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"


_UNITS = {"KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_bytes(text: str) -> int:
    """A size such as "16GB" or "900 MB" in bytes; ConfigError for anything else."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]+)\s*", text)
    if match is None or match[2].upper() not in _UNITS:
        raise ConfigError(f"memory is {text!r}: give a number and a unit, such as 16GB or 900MB")
    return int(float(match[1]) * _UNITS[match[2].upper()])

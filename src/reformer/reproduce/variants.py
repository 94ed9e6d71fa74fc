"""The small language model of the comparisons, and the ways it is varied.

Every variant is the same stack, near-sighted and far-sighted layers in turn, four in all. What
changes is the kind of the far-sighted ones, unless the variant says otherwise.
"""

import dataclasses
from collections.abc import Callable

from reformer.config import LSH, Full, Layer, Local, ReformerConfig
from reformer.ops.hashing import default_num_buckets

ROTARY = 10000.0
Variant = Callable[[int], ReformerConfig]
"""From a length in tokens to a model of that length."""


_NEAR = (Local(window_length=16, rotary_base=ROTARY), Local(window_length=32, rotary_base=ROTARY))


def language_model(length: int, far: Layer) -> ReformerConfig:
    """Four layers of width 128 over bytes: local 16, ``far``, local 32, ``far``."""
    return ReformerConfig(
        hidden_size=128,
        feed_forward_size=384,
        num_heads=2,
        head_size=64,
        max_length=length,
        layers=(_NEAR[0], far, _NEAR[1], far),
    )


def _far(layer: Layer) -> Variant:
    return lambda length: language_model(length, layer)


def _buckets(share: int) -> Variant:
    """LSH with the default number of buckets divided by ``share``."""

    def variant(length: int) -> ReformerConfig:
        count = default_num_buckets(length, LSH().window_length) // share
        return language_model(length, LSH(num_buckets=max(2, count)))

    return variant


def _shared_exact(length: int) -> ReformerConfig:
    # One bucket and a window as long as the sequence: exact attention with shared query-keys.
    return language_model(length, LSH(num_hashes=1, num_buckets=1, window_length=length))


def _layers(*layers: Layer) -> Variant:
    return lambda length: dataclasses.replace(language_model(length, layers[0]), layers=layers)


def _float_streams(length: int) -> ReformerConfig:
    return dataclasses.replace(language_model(length, LSH()), streams="float")


def _axial(length: int) -> ReformerConfig:
    """Positions from the axial tables alone, as strong as the tokens."""
    layers = (Local(window_length=16), LSH(), Local(window_length=32), LSH())
    return dataclasses.replace(language_model(length, LSH()), layers=layers, position_scale=1.0)


VARIANTS: dict[str, Variant] = {
    # The three that matter most.
    "exact": _far(Full()),
    "lsh": _far(LSH()),
    "local": _far(Local(window_length=256, rotary_base=ROTARY)),
    # What exact attention gains from positions, and loses by shared query-keys.
    "exact-rotary": _far(Full(rotary_base=ROTARY)),
    "exact-shared": _shared_exact,
    # Which pairs are seen.
    "chunk": _far(LSH(rule="chunk")),
    "rounds-1": _far(LSH(num_hashes=1)),
    "rounds-2": _far(LSH(num_hashes=2)),
    "rounds-8": _far(LSH(num_hashes=8)),
    "buckets-half": _buckets(2),
    "buckets-quarter": _buckets(4),
    "buckets-sixteenth": _buckets(16),
    "window-128": _far(LSH(num_hashes=2, window_length=128)),
    "window-256": _far(LSH(num_hashes=1, window_length=256)),
    # How scores are scaled, where LSH stands, positions, streams.
    "scale-eighth": _far(LSH(score_scale=0.125)),
    "lsh-one-in-four": _layers(*_NEAR, LSH(), _NEAR[1]),
    "lsh-everywhere": _layers(LSH(), LSH(), LSH(), LSH()),
    "exact-everywhere": _layers(*[Full(rotary_base=ROTARY)] * 4),
    "axial": _axial,
    "float-streams": _float_streams,
}

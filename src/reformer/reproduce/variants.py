"""The small language model of the comparisons, and the ways it is varied.

Every variant has four layers. In three of them attention is near-sighted and always the same; the
far-sighted one is of the kind that the variant names, as the paper's authors have it in their
models of text. ``two-`` variants have two far-sighted layers, so that kinds differ more.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from reformer.config import LSH, Full, Layer, Local, ReformerConfig
from reformer.layers import Values
from reformer.ops.hashing import default_num_buckets

ROTARY = 10000.0
Kind = Callable[[int], Layer]
"""From a length in tokens to a far-sighted layer for it."""
Variant = Callable[[int], ReformerConfig]
"""From a length in tokens to a model of that length."""


def language_model(length: int, layers: tuple[Layer, ...]) -> ReformerConfig:
    """A stack of width 128 over bytes."""
    return ReformerConfig(
        hidden_size=128,
        feed_forward_size=384,
        num_heads=2,
        head_size=64,
        max_length=length,
        layers=layers,
    )


def _near(window_length: int) -> Local:
    return Local(window_length=window_length, rotary_base=ROTARY)


def _always(layer: Layer) -> Kind:
    return lambda length: layer


def _lsh(**changes: Any) -> Kind:
    """LSH as the presets for text have it, but for these changes."""
    return _always(dataclasses.replace(LSH(values="next"), **changes))


def _buckets(share: int) -> Kind:
    """LSH with the default number of buckets divided by ``share``."""

    def kind(length: int) -> Layer:
        count = default_num_buckets(length, LSH().window_length) // share
        return LSH(num_buckets=max(2, count), values="next")

    return kind


def _one_bucket(values: Values) -> Kind:
    # With a window as long as the sequence: exact attention with shared query-keys.
    return lambda length: LSH(1, length, num_buckets=1, values=values)


_KINDS: Mapping[str, Kind] = {
    # The three that matter most.
    "exact": _always(Full()),
    "lsh": _lsh(),
    "local": _always(_near(256)),
    # What exact attention gains from positions, and loses by shared query-keys.
    "exact-rotary": _always(Full(rotary_base=ROTARY)),
    "exact-shared": _one_bucket("own"),
    # Whose values are read: the tokens' own as in the paper, or those that came next.
    "lsh-own": _always(LSH()),
    "exact-shared-next": _one_bucket("next"),
    # Which pairs are seen. The chunk rule goes with the tokens' own values.
    "chunk": _always(LSH(rule="chunk")),
    "rounds-1": _lsh(num_hashes=1),
    "rounds-2": _lsh(num_hashes=2),
    "rounds-8": _lsh(num_hashes=8),
    "buckets-half": _buckets(2),
    "buckets-quarter": _buckets(4),
    "buckets-sixteenth": _buckets(16),
    "window-128": _lsh(num_hashes=2, window_length=128),
    "window-256": _lsh(num_hashes=1, window_length=256),
    # How scores are scaled, and pairs dropped in training: the same ones in every round.
    "scale-eighth": _lsh(score_scale=0.125),
    "dropout-tenth": _lsh(dropout=0.1),
}


def _one_far(kind: Kind) -> Variant:
    return lambda length: language_model(length, (_near(16), _near(256), kind(length), _near(32)))


def _two_far(kind: Kind) -> Variant:
    def variant(length: int) -> ReformerConfig:
        far = kind(length)
        return language_model(length, (_near(16), far, _near(32), far))

    return variant


def _everywhere(layer: Layer) -> Variant:
    return lambda length: language_model(length, (layer,) * 4)


def _axial(*windows: int | None) -> Variant:
    """Positions from the axial tables alone, as strong as the tokens. None: LSH."""
    layers = tuple(LSH(values="next") if w is None else Local(window_length=w) for w in windows)
    return lambda length: dataclasses.replace(language_model(length, layers), position_scale=1.0)


def _float_streams(length: int) -> ReformerConfig:
    return dataclasses.replace(VARIANTS["lsh"](length), streams="float")


VARIANTS: dict[str, Variant] = {
    **{name: _one_far(kind) for name, kind in _KINDS.items()},
    **{f"two-{name}": _two_far(kind) for name, kind in _KINDS.items()},
    "axial": _axial(16, 256, None, 32),
    "two-axial": _axial(16, None, 32, None),
    "lsh-everywhere": _everywhere(LSH(values="next")),
    "lsh-float-streams": _float_streams,
    "exact-everywhere": _everywhere(Full(rotary_base=ROTARY)),
}

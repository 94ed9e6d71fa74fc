"""Models that were trained under the chunk rule, under the window rule.

Weights, hashes and buckets stay. What changes is which tokens of the sorted order a query sees:
of a chunk of c with b chunks before it, from b c to (b + 1) c tokens, here the last (b + 1) c of
its bucket, or of the text in local layers. That is not the function that was trained; it comes
close, and no longer depends on later tokens, so that it can be decoded with a cache.
"""

from dataclasses import replace

from reformer.config import Full, Layer, ReformerConfig


def under_window_rule(config: ReformerConfig) -> ReformerConfig:
    """The same model with every layer under the window rule; weights stay valid."""
    return replace(config, layers=tuple(map(_window, config.layers)))


def _window(layer: Layer) -> Layer:
    if isinstance(layer, Full) or layer.rule == "window":
        return layer
    reach = layer.window_length * (layer.chunks_before + 1)
    return replace(layer, rule="window", window_length=reach, chunks_before=1, chunks_after=0)

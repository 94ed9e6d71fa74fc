"""Our ``DecodeCache`` in the part of a cache that transformers' ``generate`` expects."""

from typing import Self

import torch
from torch import Tensor

from reformer.config import Full, ReformerConfig
from reformer.generation.extend import extend, extend_all, new_cache, unpadded
from reformer.models.language import ReformerForCausalLM
from reformer.nn.cache import DecodeCache


def is_decodable(config: ReformerConfig) -> bool:
    """Whether later tokens leave what earlier ones see alone, so that a cache is exact."""
    return config.causal and all(
        isinstance(layer, Full) or layer.rule == "window" for layer in config.layers
    )


class CacheOfRows:
    """A cache, and the number of columns of the padded batch that it has read."""

    is_compileable = False

    def __init__(self, cache: DecodeCache) -> None:
        self.cache = cache
        self.num_columns = 0

    @classmethod
    def of(cls, model: ReformerForCausalLM, num_rows: int) -> Self:
        """An empty cache that takes nothing back."""
        return cls(new_cache(model, num_rows, undo_length=0))

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns read, padding included."""
        return self.num_columns

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Row i becomes a copy of what row beam_idx[i] was."""
        rows = self.cache.rows
        self.cache = self.cache.with_rows(rows[int(index)].fork() for index in beam_idx)


def continue_rows(
    model: ReformerForCausalLM,
    input_ids: Tensor,
    attention_mask: Tensor | None,
    cache: CacheOfRows,
    logits_to_keep: int,
) -> Tensor:
    """Read new columns [B, T] into the cache; logits [B, T, V], or of the last one [B, 1, V].

    attention_mask: of all columns so far, or of the new ones; padding is not read, and its
    logits are 0.
    """
    batch, count = input_ids.shape
    mask = torch.ones_like(input_ids)
    if attention_mask is not None:
        mask = attention_mask[:, -count:]
    rows = unpadded(input_ids, mask)
    cache.num_columns += count
    if logits_to_keep == 1 and bool(mask[:, -1].all()):
        return extend(model, rows, cache.cache)[:, None]
    parts = extend_all(model, rows, cache.cache)
    logits = parts[0].new_zeros((batch, count, model.config.vocab_size))
    for row, (held, part) in enumerate(zip(mask.bool(), parts, strict=True)):
        logits[row, held] = part
    return logits[:, -logits_to_keep:]

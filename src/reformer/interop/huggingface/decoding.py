"""Our ``DecodeCache`` in the part of a cache that transformers' ``generate`` expects."""

from typing import Self

import torch
from torch import Tensor

from reformer.config import Full, ReformerConfig
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
    is_linear = (False,)  # not a state of fixed size instead of tokens

    def __init__(self, cache: DecodeCache) -> None:
        self.cache = cache
        self.num_columns = 0

    @classmethod
    def of(cls, model: ReformerForCausalLM, num_rows: int) -> Self:
        """An empty cache that takes nothing back."""
        weight = model.reformer.norm.weight
        cache = DecodeCache(
            model.config, num_rows, undo_length=0, dtype=weight.dtype, device=weight.device
        )
        return cls(cache)

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
    """Read new columns [B, T] into the cache; logits of the last ``logits_to_keep`` (0: of all).

    attention_mask: of all columns so far, or of the new ones; padding is not read, and its
    logits are 0. Returns [B, T', V].
    """
    batch, count = input_ids.shape
    held = torch.ones_like(input_ids, dtype=torch.bool)
    if attention_mask is not None:
        held = attention_mask[:, -count:].bool()
    kept = min(logits_to_keep or count, count)
    dtype = model.reformer.norm.weight.dtype
    logits = torch.zeros(
        (batch, kept, model.config.vocab_size), dtype=dtype, device=input_ids.device
    )
    step = model.config.slice_length
    for start in range(0, count, step):
        columns = slice(start, start + step)
        part = held[:, columns]
        rows = zip(input_ids[:, columns], part, strict=True)
        hidden = model.reformer.append([ids[mask].tolist() for ids, mask in rows], cache.cache)
        # Packed row after row, as boolean indexing reads them.
        row, column = part.nonzero(as_tuple=True)
        column = column + start - (count - kept)
        wanted = column >= 0
        with torch.no_grad():
            found: Tensor = model.head(model.reformer.norm(hidden[wanted]))
        logits[row[wanted], column[wanted]] = found.to(logits.dtype)
    cache.num_columns += count
    return logits

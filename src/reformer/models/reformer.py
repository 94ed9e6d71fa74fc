"""The Reformer trunk: embedding, reversible stack, and the norm that heads apply to its end."""

from collections.abc import Sequence
from itertools import chain
from typing import cast

import torch
from torch import Tensor, nn

from reformer.config import ReformerConfig
from reformer.models.chunk_padding import pad_to_chunks
from reformer.nn.append import append_to_stack
from reformer.nn.cache import CacheError, DecodeCache
from reformer.nn.embedding import Embedding
from reformer.nn.record import Memory, layer_records
from reformer.nn.reversible import ReversibleBlock, reversible_stack


class VocabularyError(ValueError):
    """A token id that the model does not have."""


class MeanNorm(nn.LayerNorm):
    """Layer norm of the mean of both streams: [.., 2 D] to [.., D]."""

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        return super().forward((first + second) / 2)


def final_norm(config: ReformerConfig) -> nn.LayerNorm:
    """The norm of a stack's end: [.., 2 D] to [.., features_size]."""
    kind = nn.LayerNorm if config.streams_end == "concatenated" else MeanNorm
    return kind(config.features_size, eps=config.norm_epsilon)


class Reformer(nn.Module):
    """Token ids to the two final streams, side by side [B, L, 2 D].

    ``norm`` is for the head: applied slice by slice there, it never costs a second [L, 2 D].
    """

    block: type[ReversibleBlock] = ReversibleBlock

    def __init__(self, config: ReformerConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = Embedding(config)
        self.blocks = nn.ModuleList(self.block(config, layer) for layer in config.layers)
        self.norm = final_norm(config)

    def forward(
        self,
        input_ids: Tensor,
        *,
        segment_ids: Tensor | None = None,
        positions: Tensor | None = None,
        draw: int | None = None,
    ) -> Tensor:
        """Run the trunk.

        input_ids: int64 [B, L], 1 <= L <= max_length. segment_ids: [B, L]; tokens see their
        own segment only, a negative id is padding. positions: [L] or [B, L], default 0 … L-1.
        draw: None switches dropout off and fixes the hash rotations; a number names this
        pass's dropout masks and rotations. Returns [B, L, 2 D], before ``norm``.
        """
        return self.through(self.blocks, self.config, input_ids, segment_ids, positions, draw)

    def through(
        self,
        blocks: nn.ModuleList,
        config: ReformerConfig,
        input_ids: Tensor,
        segment_ids: Tensor | None,
        positions: Tensor | None,
        draw: int | None,
        memory: Memory | None = None,
    ) -> Tensor:
        """The tokens' embeddings through a stack of this config; memory: what a decoder's blocks
        attend to."""
        self._check(input_ids)
        if positions is None:
            positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        length = input_ids.shape[1]
        input_ids, segment_ids, positions = pad_to_chunks(config, input_ids, segment_ids, positions)
        records = layer_records(config, draw, segment_ids, positions)
        embedded = self.embedding(input_ids, positions)
        stack = cast("list[ReversibleBlock]", list(blocks))
        out = reversible_stack(embedded, stack, records, config.streams, memory)
        # A slice of the whole would cost its gradient a copy.
        return out if out.shape[1] == length else out[:, :length]

    def append(self, input_ids: Sequence[Sequence[int]], cache: DecodeCache) -> Tensor:
        """Append tokens to the cache's rows and run the trunk on them, in evaluation mode.

        input_ids: for each row its new token ids, any number of them, none too. Returns
        [T, 2 D], before ``norm``, the rows' new tokens end to end; equal to ``forward`` on the
        whole sequences to rounding, in whatever portions they are appended.
        """
        if len(input_ids) != len(cache.rows):
            raise ValueError(
                f"input_ids is for {len(input_ids)} rows, the cache has {len(cache.rows)}"
            )
        active = [row for row, ids in enumerate(input_ids) if len(ids)]
        input_ids = [input_ids[row] for row in active]
        cache = cache.with_rows(cache.rows[row] for row in active)
        counts = [len(ids) for ids in input_ids]
        for count, length in zip(counts, cache.lengths, strict=True):
            if length + count > self.config.max_length:
                raise CacheError(
                    f"a row of {length} tokens cannot take {count} more: this model's "
                    f"max_length is {self.config.max_length}"
                )
        if cache.config is not self.config:
            cache.check_model(self.config)
        device = self.norm.weight.device
        if not active:
            return torch.empty((0, 2 * self.config.hidden_size), dtype=cache.dtype, device=device)
        packed = torch.tensor(list(chain.from_iterable(input_ids)), device=device)
        self._check_vocabulary(packed)
        positions = torch.cat(
            [
                torch.arange(length, length + count, device=device)
                for length, count in zip(cache.lengths, counts, strict=True)
            ]
        )
        try:
            with torch.no_grad():
                embedded = self.embedding(packed[None], positions)[0]
                blocks = cast("list[ReversibleBlock]", list(self.blocks))
                out = append_to_stack(
                    embedded, blocks, cache, counts, positions, self.config.streams
                )
        except Exception:
            cache.undo_growth()
            raise
        for row, ids in zip(cache.rows, input_ids, strict=True):
            row.input_ids.extend(ids)
        cache.forget()
        return out

    def _check(self, input_ids: Tensor) -> None:
        if input_ids.dim() != 2 or input_ids.dtype not in (torch.int64, torch.int32):
            raise ValueError(
                f"input_ids must be an integer tensor [B, L], not {input_ids.dtype} "
                f"{list(input_ids.shape)}"
            )
        length = input_ids.shape[1]
        if not 1 <= length <= self.config.max_length:
            raise ValueError(
                f"input_ids has {length} tokens: this model takes from 1 to max_length = "
                f"{self.config.max_length}"
            )
        self._check_vocabulary(input_ids)

    def _check_vocabulary(self, input_ids: Tensor) -> None:
        if input_ids.numel():
            low, high = (int(x) for x in torch.aminmax(input_ids))
            if low < 0 or high >= self.config.vocab_size:
                raise VocabularyError(
                    f"input_ids holds the id {low if low < 0 else high}: this model's vocabulary "
                    f"is 0 to {self.config.vocab_size - 1}"
                )

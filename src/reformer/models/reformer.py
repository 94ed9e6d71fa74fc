"""The Reformer trunk: embedding, reversible stack, and the norm that heads apply to its end."""

import torch
from torch import Tensor, nn

from reformer.config import ReformerConfig
from reformer.nn.embedding import Embedding
from reformer.nn.record import layer_records
from reformer.nn.reversible import ReversibleBlock, reversible_stack


class Reformer(nn.Module):
    """Token ids to the two final streams, side by side [B, L, 2 D].

    ``norm`` is for the head: applied slice by slice there, it never costs a second [L, 2 D].
    """

    def __init__(self, config: ReformerConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = Embedding(config)
        self.blocks = nn.ModuleList(ReversibleBlock(config, layer) for layer in config.layers)
        self.norm = nn.LayerNorm(2 * config.hidden_size, eps=config.norm_epsilon)

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
        self._check(input_ids)
        if positions is None:
            positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        records = layer_records(self.config, draw, segment_ids, positions)
        embedded = self.embedding(input_ids, positions)
        return reversible_stack(embedded, list(self.blocks), records, self.config.streams)

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
        if input_ids.numel():
            low, high = (int(x) for x in torch.aminmax(input_ids))
            if low < 0 or high >= self.config.vocab_size:
                raise ValueError(
                    f"input_ids holds the id {low if low < 0 else high}: this model's vocabulary "
                    f"is 0 to {self.config.vocab_size - 1}"
                )

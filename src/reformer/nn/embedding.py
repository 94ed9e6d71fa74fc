"""Token and axial position embeddings."""

import torch
from torch import Tensor, nn

from reformer.config import ReformerConfig
from reformer.ops.positions import axial_positions


class AxialPositions(nn.Module):
    """One small table per axis; any rank, any length up to the product of the axes."""

    def __init__(self, config: ReformerConfig) -> None:
        super().__init__()
        self.tables = nn.ParameterList(
            torch.empty(extent, size)
            for extent, size in zip(config.position_shape, config.position_sizes, strict=True)
        )

    def forward(self, positions: Tensor) -> Tensor:
        """[...] int64 to [..., D]."""
        return axial_positions(list(self.tables), positions)


class Embedding(nn.Module):
    """Token embedding plus position embedding."""

    def __init__(self, config: ReformerConfig) -> None:
        super().__init__()
        # Not nn.Embedding(…): drawing its weights on the meta device costs seconds of imports.
        weight = torch.empty(config.vocab_size, config.hidden_size)
        self.tokens = nn.Embedding.from_pretrained(weight, freeze=False)
        self.positions = AxialPositions(config)

    def forward(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        """input_ids [B, L] and positions [L] or [B, L] to [B, L, D]."""
        return self.tokens(input_ids) + self.positions(positions)

"""Extractive question answering: where in the sequence an answer starts and ends."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from reformer.config import ReformerConfig
from reformer.models.pretrained import PretrainedReformer
from reformer.ops.sliced import IGNORED_LABEL


class SpanOutput(NamedTuple):
    """Logits of the span's first and last token, each [B, L], and the loss if it was asked for."""

    start_logits: Tensor
    end_logits: Tensor
    loss: Tensor | None = None


class ReformerForQuestionAnswering(PretrainedReformer):
    """Scores every position as the start and as the end of the answer."""

    @classmethod
    def build_head(cls, config: ReformerConfig) -> nn.Module:
        return nn.Linear(config.features_size, 2)

    def forward(
        self,
        input_ids: Tensor,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        *,
        segment_ids: Tensor | None = None,
        positions: Tensor | None = None,
        draw: int | None = None,
    ) -> SpanOutput:
        """Logits of both ends, and the loss when both true positions are given.

        input_ids: [B, L]; segment_ids, positions, draw: see ``Reformer.forward``.
        start_positions, end_positions: int64 [B]; one beyond the sequence does not count. The
        loss is the mean of both ends' cross-entropies, each a mean over the rows that count.
        """
        hidden = self.reformer(
            input_ids, segment_ids=segment_ids, positions=positions, draw=self._draw(draw)
        )
        start, end = self.head(self.reformer.norm(hidden)).unbind(dim=-1)
        loss = None
        if start_positions is not None and end_positions is not None:
            # Padding is no place for an answer.
            places = segment_ids >= 0 if segment_ids is not None else torch.ones_like(start).bool()
            ends = ((start, start_positions), (end, end_positions))
            losses = [_end_loss(x.masked_fill(~places, -torch.inf), at) for x, at in ends]
            loss = torch.stack(losses).mean()
        return SpanOutput(start_logits=start, end_logits=end, loss=loss)


def _end_loss(logits: Tensor, targets: Tensor) -> Tensor:
    wide = logits if logits.dtype == torch.float64 else logits.float()
    targets = targets.clamp(min=0)
    targets = torch.where(targets < logits.shape[1], targets, IGNORED_LABEL)
    total = functional.cross_entropy(wide, targets, ignore_index=IGNORED_LABEL, reduction="sum")
    return total / (targets != IGNORED_LABEL).sum().clamp(min=1)

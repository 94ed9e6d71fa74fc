"""Causal language model: the trunk, a norm over both streams, and a linear head."""

import torch
from torch import Tensor, nn

from reformer.config import ConfigError, ReformerConfig
from reformer.models.language_head import LanguageModelOutput, language_head
from reformer.models.pretrained import PretrainedReformer
from reformer.ops.sliced import IGNORED_LABEL, chunked_cross_entropy


class ReformerForCausalLM(PretrainedReformer):
    """Predicts each token from the tokens before it."""

    @classmethod
    def build_head(cls, config: ReformerConfig) -> nn.Module:
        if not config.causal:
            raise ConfigError("causal is False: a causal language model needs causal=True")
        return language_head(config)

    def forward(
        self,
        input_ids: Tensor,
        labels: Tensor | None = None,
        *,
        segment_ids: Tensor | None = None,
        positions: Tensor | None = None,
        draw: int | None = None,
    ) -> LanguageModelOutput:
        """Logits, or the loss when labels are given.

        input_ids: [B, L]; segment_ids, positions: see ``Reformer.forward``. labels: [B, L],
        aligned with input_ids: labels[:, t] is predicted from the tokens before t; -100, the
        first token, padding and the first token of a segment do not count. The loss is the
        mean in nats, computed in slices: the logits never exist as a whole.
        draw: in training mode, names the dropout masks and hash rotations; by default the
        model counts its training passes. Ignored in evaluation mode.
        """
        hidden = self.reformer(
            input_ids, segment_ids=segment_ids, positions=positions, draw=self._draw(draw)
        )
        if labels is None:
            return LanguageModelOutput(logits=self._logits(hidden))
        targets = _next_tokens(input_ids, labels, segment_ids)
        loss = chunked_cross_entropy(
            self._logits,
            hidden.flatten(0, 1),
            targets.flatten(),
            self.config.slice_length,
            [*self.reformer.norm.parameters(), *self.head.parameters()],
        )
        return LanguageModelOutput(loss=loss)

    def _logits(self, hidden: Tensor) -> Tensor:
        return self.head(self.reformer.norm(hidden))


def _next_tokens(input_ids: Tensor, labels: Tensor, segment_ids: Tensor | None) -> Tensor:
    """The label that each position predicts: the next one, within its segment."""
    if labels.shape != input_ids.shape:
        raise ValueError(
            f"labels is {list(labels.shape)}: it must match input_ids {list(input_ids.shape)}"
        )
    targets = torch.full_like(labels, IGNORED_LABEL)
    targets[:, :-1] = labels[:, 1:]
    if segment_ids is not None:
        same = (segment_ids[:, 1:] == segment_ids[:, :-1]) & (segment_ids[:, 1:] >= 0)
        targets[:, :-1][~same] = IGNORED_LABEL
    return targets

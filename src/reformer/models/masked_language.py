"""Masked language model: predicts hidden tokens from both sides of them."""

from torch import Tensor, nn

from reformer.config import ConfigError, ReformerConfig
from reformer.models.language_head import LanguageModelOutput, language_head
from reformer.models.pretrained import PretrainedReformer
from reformer.ops.sliced import chunked_cross_entropy


class ReformerForMaskedLM(PretrainedReformer):
    """Predicts the token at each position from all others."""

    @classmethod
    def build_head(cls, config: ReformerConfig) -> nn.Module:
        if config.causal:
            raise ConfigError("causal is True: a masked language model needs causal=False")
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
        """Logits [B, L, V], or the loss when labels are given.

        input_ids: [B, L]; segment_ids, positions, draw: see ``Reformer.forward``.
        labels: [B, L], the true token at each position; -100 where it does not count. The loss
        is the mean in nats, computed in slices.
        """
        hidden = self.reformer(
            input_ids, segment_ids=segment_ids, positions=positions, draw=self._draw(draw)
        )
        if labels is None:
            return LanguageModelOutput(logits=self._logits(hidden))
        if labels.shape != input_ids.shape:
            raise ValueError(
                f"labels is {list(labels.shape)}: it must match input_ids {list(input_ids.shape)}"
            )
        loss = chunked_cross_entropy(
            self._logits,
            hidden.flatten(0, 1),
            labels.flatten(),
            self.config.slice_length,
            [*self.reformer.norm.parameters(), *self.head.parameters()],
        )
        return LanguageModelOutput(loss=loss)

    def _logits(self, hidden: Tensor) -> Tensor:
        return self.head(self.reformer.norm(hidden))

"""Token classification: a class for every token, such as the parts of names in a sentence."""

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional

from reformer.config import ConfigError, ReformerConfig
from reformer.models.pretrained import PretrainedReformer
from reformer.ops.sliced import IGNORED_LABEL


class TokenClassificationOutput(NamedTuple):
    """The logits [B, L, num_labels] and, when labels were given, the loss."""

    logits: Tensor
    loss: Tensor | None = None


class ReformerForTokenClassification(PretrainedReformer):
    """Labels every token with one class of ``config.labels``."""

    @classmethod
    def build_head(cls, config: ReformerConfig) -> nn.Module:
        if config.labels is None or config.labels.problem != "single_label":
            raise ConfigError(
                f"labels is {config.labels}: a token classification model needs "
                'labels=Labels(...) with problem "single_label"'
            )
        return nn.Linear(config.features_size, config.labels.num_labels)

    def forward(
        self,
        input_ids: Tensor,
        labels: Tensor | None = None,
        *,
        segment_ids: Tensor | None = None,
        positions: Tensor | None = None,
        draw: int | None = None,
    ) -> TokenClassificationOutput:
        """Logits, and the mean cross-entropy in nats when labels are given.

        input_ids: [B, L]; segment_ids, positions, draw: see ``Reformer.forward``. labels: int64
        [B, L], each token's class; -100 where it does not count.
        """
        hidden = self.reformer(
            input_ids, segment_ids=segment_ids, positions=positions, draw=self._draw(draw)
        )
        logits = self.head(self.reformer.norm(hidden))
        if labels is None:
            return TokenClassificationOutput(logits)
        if labels.shape != input_ids.shape:
            raise ValueError(
                f"labels is {list(labels.shape)}: it must match input_ids {list(input_ids.shape)}"
            )
        counted = (labels != IGNORED_LABEL).sum().clamp(min=1)
        total = functional.cross_entropy(
            logits.float().flatten(0, 1),
            labels.flatten(),
            ignore_index=IGNORED_LABEL,
            reduction="sum",
        )
        return TokenClassificationOutput(logits, total / counted)

"""The model without a task: a vector for every token."""

from dataclasses import dataclass

from torch import Tensor, nn

from reformer.config import ReformerConfig
from reformer.models.pretrained import PretrainedReformer


@dataclass(frozen=True)
class FeaturesOutput:
    """Both streams after the last norm, [B, L, 2 D]."""

    last_hidden_state: Tensor


class ReformerModel(PretrainedReformer):
    """Token ids to features."""

    @classmethod
    def build_head(cls, config: ReformerConfig) -> nn.Module:
        return nn.Identity()

    def forward(
        self,
        input_ids: Tensor,
        *,
        segment_ids: Tensor | None = None,
        positions: Tensor | None = None,
        draw: int | None = None,
    ) -> FeaturesOutput:
        """input_ids [B, L]; the other arguments as in ``Reformer.forward``."""
        hidden = self.reformer(
            input_ids, segment_ids=segment_ids, positions=positions, draw=self._draw(draw)
        )
        return FeaturesOutput(last_hidden_state=self.reformer.norm(hidden))

"""Classification of whole sequences: one class, several, or real numbers.

One vector h stands for the sequence: its first token's (like BERT's [CLS]), as in Hugging Face's
Reformer, or the mean of all. Then tanh(W h + b) and a linear layer to the labels, with dropout
before each.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from reformer.config import ConfigError, Labels, ReformerConfig
from reformer.models.pretrained import PretrainedReformer
from reformer.ops.randomness import derive_seed, dropout

# Names the head's dropout masks apart from those of the layers.
_HEAD = -1


class ClassificationOutput(NamedTuple):
    """The logits [B, num_labels] and, when labels were given, the loss."""

    logits: Tensor
    loss: Tensor | None = None


class ClassificationHead(nn.Module):
    """Features of whole sequences [B, 2 D] to logits [B, num_labels]."""

    def __init__(self, config: ReformerConfig, labels: Labels) -> None:
        super().__init__()
        self.seed = config.seed
        self.rate = config.dropout if labels.dropout is None else labels.dropout
        self.dense = nn.Linear(config.features_size, config.hidden_size)
        self.scores = nn.Linear(config.hidden_size, labels.num_labels)

    def forward(self, x: Tensor, draw: int | None) -> Tensor:
        x = self.dense(self._drop(x, draw, 0)).tanh()
        return self.scores(self._drop(x, draw, 1))

    def _drop(self, x: Tensor, draw: int | None, place: int) -> Tensor:
        if draw is None or self.rate == 0:
            return x
        seed = derive_seed(self.seed, _HEAD, draw, place)
        return dropout(x[:, None], self.rate, shared=False, seed=seed)[:, 0]


class ReformerForSequenceClassification(PretrainedReformer):
    """Labels a whole sequence, as ``config.labels`` says."""

    @classmethod
    def build_head(cls, config: ReformerConfig) -> nn.Module:
        if config.labels is None:
            raise ConfigError("labels is None: a classification model needs labels=Labels(...)")
        return ClassificationHead(config, config.labels)

    def forward(
        self,
        input_ids: Tensor,
        labels: Tensor | None = None,
        *,
        segment_ids: Tensor | None = None,
        positions: Tensor | None = None,
        draw: int | None = None,
    ) -> ClassificationOutput:
        """Logits, and the mean loss when labels are given.

        input_ids: [B, L]; with pooling "first", no row begins with padding. segment_ids,
        positions, draw: see ``Reformer.forward``. labels: int64 [B] for one class per sequence
        (cross-entropy); [B, num_labels] of zeros and ones for several (binary cross-entropy), or
        of real numbers for a regression (mean squared error; [B] will do for one number).
        """
        draw = self._draw(draw)
        hidden = self.reformer(input_ids, segment_ids=segment_ids, positions=positions, draw=draw)
        logits = self.head(self._pool(hidden, segment_ids), draw)
        loss = None if labels is None else self._loss(logits, labels)
        return ClassificationOutput(logits=logits, loss=loss)

    def _pool(self, hidden: Tensor, segment_ids: Tensor | None) -> Tensor:
        """[B, L, 2 D] to [B, features]: the first token, or the mean of all but padding."""
        if self.config.labels is None or self.config.labels.pooling == "first":
            return self.reformer.norm(hidden[:, 0])
        features = self.reformer.norm(hidden)
        if segment_ids is None:
            return features.mean(dim=1)
        counted = (segment_ids >= 0).to(features.dtype)
        total = torch.einsum("bl,bld->bd", counted, features)
        return total / counted.sum(dim=1, keepdim=True).clamp(min=1)

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        wide = logits if logits.dtype == torch.float64 else logits.float()
        problem = self.config.labels.problem if self.config.labels else "single_label"
        if problem == "single_label":
            if labels.shape != logits.shape[:1] or labels.is_floating_point():
                raise ValueError(
                    f"labels is {labels.dtype} {list(labels.shape)}: it must be one class id for "
                    f"each of the {len(logits)} sequences"
                )
            return functional.cross_entropy(wide, labels)
        if problem == "regression" and logits.shape[1] == 1:
            labels = labels.reshape(-1, 1)
        if labels.shape != logits.shape:
            raise ValueError(f"labels is {list(labels.shape)}: it must be {list(logits.shape)}")
        if problem == "multi_label":
            return functional.binary_cross_entropy_with_logits(wide, labels.to(wide.dtype))
        return functional.mse_loss(wide, labels.to(wide.dtype))

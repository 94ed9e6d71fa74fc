"""The linear head of language models, from both streams [.., 2 D] to the vocabulary [.., V]."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from reformer.config import ReformerConfig


class LanguageModelOutput(NamedTuple):
    """Either the logits [B, L, V] or, when labels were given, the loss."""

    logits: Tensor | None = None
    loss: Tensor | None = None


def language_head(config: ReformerConfig) -> nn.Linear:
    """The head that ``config.head_bias`` asks for."""
    kinds = {"added": nn.Linear, "held": HeldBiasLinear, "both": TwoBiasesLinear}
    return kinds[config.head_bias](config.features_size, config.vocab_size)


class HeldBiasLinear(nn.Linear):
    """A linear layer whose bias is stored with the weights, never trained and never added."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)
        del self.bias
        self.register_buffer("bias", torch.zeros(out_features))

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight)


class TwoBiasesLinear(nn.Linear):
    """A linear layer that adds its bias, and stores another, never trained and never added."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.register_buffer("held_bias", torch.zeros(out_features))

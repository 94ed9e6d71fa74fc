"""The position-wise feed-forward layer, computed in slices (paper section 3)."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from reformer.config import Activation, ReformerConfig
from reformer.ops.sliced import apply_sliced

# ReLU overwrites what W1 gives, which nobody else needs: its gradient takes the result alone.
_ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu_tanh": partial(functional.gelu, approximate="tanh"),
    "relu": torch.relu_,
    "relu6": functional.relu6,
    "relu_squared": lambda x: functional.relu(x).square(),
    "leaky_relu": functional.leaky_relu,
    "elu": functional.elu,
    "silu": functional.silu,
    "mish": functional.mish,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "linear": lambda x: x,
}


class FeedForward(nn.Module):
    """x W1 + b1, the activation, W2 + b2, ``slice_length`` positions at a time."""

    def __init__(self, config: ReformerConfig) -> None:
        super().__init__()
        self.inner = nn.Linear(config.hidden_size, config.feed_forward_size)
        self.output = nn.Linear(config.feed_forward_size, config.hidden_size)
        self.activation = _ACTIVATIONS[config.activation]
        self.slice_length = config.slice_length

    def forward(self, x: Tensor, expected_gradient: Tensor | None = None) -> Tensor:
        """[B, L, D] to [B, L, D]; ``expected_gradient`` of the result, where that is known."""
        flat = x.reshape(-1, x.shape[-1])
        expected = None if expected_gradient is None else expected_gradient.reshape(flat.shape)
        out = apply_sliced(self._slice, flat, self.slice_length, list(self.parameters()), expected)
        return out.view(x.shape)

    def is_sliced(self, x: Tensor) -> bool:
        """Whether x [B, L, D] takes more than one slice."""
        return x[..., 0].numel() > self.slice_length

    def _slice(self, x: Tensor) -> Tensor:
        return self.output(self.activation(self.inner(x)))

"""Weights of a new model, drawn from a private generator that the config's seed names."""

import math

import torch
from torch import Tensor, nn

from reformer.config import ReformerConfig
from reformer.ops.randomness import generator

_SHORTEST_WAVE = 3.0
"""In levels; the longest are four times as long as there are levels."""


def initialize(model: nn.Module, config: ReformerConfig) -> None:
    """Fill every parameter: Glorot-uniform matrices, unit norms, zero biases.

    Token embeddings are normal with deviation ``init_scale``; the head's weights are smaller by
    the root of their fan-in, so that first logits have that deviation too. Position tables
    have ``position_scale`` of it: where position says little, strong tables would drown the
    tokens in the first norm. The first ``num_levels`` tokens are waves over the levels instead, and
    so are their weights in the head. The two matrices of a layer that write into the streams (named
    ``output``) are smaller by sqrt(2 * num_layers), so the streams keep their size at any depth.
    """
    rng = generator(config.seed)
    for name, module in model.named_modules():
        initialize_module(name, module, rng, config)


@torch.no_grad()
def initialize_module(
    name: str, module: nn.Module, rng: torch.Generator, config: ReformerConfig
) -> None:
    """Fill the parameters of one module, by its name in the model; biases that it stores are 0."""
    if isinstance(module, nn.Linear):
        fan_out, fan_in = module.weight.shape
        bound = math.sqrt(6.0 / (fan_in + fan_out))
        if name.endswith(".output"):
            bound /= math.sqrt(2.0 * len(config.layers))
        if name == "head":
            scale = config.init_scale / math.sqrt(fan_in)
            module.weight.normal_(0.0, scale, generator=rng)
            _set_levels(module.weight, config.num_levels, scale, rng)
        else:
            module.weight.uniform_(-bound, bound, generator=rng)
        for bias in (module.bias, getattr(module, "held_bias", None)):
            if bias is not None:
                bias.zero_()
    elif isinstance(module, nn.LayerNorm):
        module.weight.fill_(1.0)
        module.bias.zero_()
    elif isinstance(module, nn.Embedding):
        module.weight.normal_(0.0, config.init_scale, generator=rng)
        _set_levels(module.weight, config.num_levels, config.init_scale, rng)
    elif isinstance(module, nn.ParameterList):
        for table in module.parameters():
            table.normal_(0.0, config.init_scale * config.position_scale, generator=rng)


def _set_levels(weight: Tensor, count: int, scale: float, rng: torch.Generator) -> None:
    """Rows 0 … count - 1 of weight [V, D]: a wave of its own length and phase in each column.

    What is learned of one level then holds for its neighbours as well, the more the nearer, where
    of unrelated vectors each would have to be learned by itself.
    """
    if count == 0:
        return
    width = weight.shape[1]
    lengths = torch.empty(width).uniform_(
        math.log(_SHORTEST_WAVE), math.log(max(_SHORTEST_WAVE, 4.0 * count)), generator=rng
    )
    phases = torch.empty(width).uniform_(0.0, 2 * math.pi, generator=rng)
    levels = torch.arange(count, dtype=torch.float32)[:, None]
    waves = torch.cos(2 * math.pi * levels / lengths.exp() + phases)
    weight[:count] = scale * math.sqrt(2.0) * waves

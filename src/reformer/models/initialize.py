"""Weights of a new model, drawn from a private generator that the config's seed names."""

import math

import torch
from torch import nn

from reformer.ops.randomness import generator

# Measured on a novel, see docs/decisions: equal shares learn slower.
_POSITION_SHARE = 0.1


def initialize(model: nn.Module, seed: int, embedding_scale: float, num_layers: int) -> None:
    """Fill every parameter: Glorot-uniform matrices, unit norms, zero biases.

    Token embeddings are normal with deviation ``embedding_scale``; the head's weights are
    smaller by the root of their fan-in, so that first logits have that deviation too. Position
    tables are fainter than tokens, or they would drown them in the first norm. The two
    matrices of a layer that write into the streams (named ``output``) are smaller by
    sqrt(2 * num_layers), so the streams keep their size at any depth.
    """
    rng = generator(seed)
    for name, module in model.named_modules():
        initialize_module(name, module, rng, embedding_scale, num_layers)


@torch.no_grad()
def initialize_module(
    name: str, module: nn.Module, rng: torch.Generator, embedding_scale: float, num_layers: int
) -> None:
    """Fill the parameters of one module, by its name in the model."""
    if isinstance(module, nn.Linear):
        fan_out, fan_in = module.weight.shape
        bound = math.sqrt(6.0 / (fan_in + fan_out))
        if name.endswith(".output"):
            bound /= math.sqrt(2.0 * num_layers)
        if name == "head":
            module.weight.normal_(0.0, embedding_scale / math.sqrt(fan_in), generator=rng)
        else:
            module.weight.uniform_(-bound, bound, generator=rng)
        if module.bias is not None:
            module.bias.zero_()
    elif isinstance(module, nn.LayerNorm):
        module.weight.fill_(1.0)
        module.bias.zero_()
    elif isinstance(module, nn.Embedding):
        module.weight.normal_(0.0, embedding_scale, generator=rng)
    elif isinstance(module, nn.ParameterList):
        for table in module.parameters():
            table.normal_(0.0, embedding_scale * _POSITION_SHARE, generator=rng)

"""Small models and inputs that the tests of modules and models share."""

from typing import Any

import torch
from torch import Tensor

from reformer.config import LSH, Full, Layer, Local, ReformerConfig
from reformer.models.language import ReformerForCausalLM

LENGTH, VOCABULARY = 48, 32
LAYERS: tuple[Layer, ...] = (
    Local(window_length=8, dropout=0.1),
    LSH(num_hashes=2, window_length=8, dropout=0.1),
)


def small_config(depth: int = 2, **values: Any) -> ReformerConfig:
    """Layers repeat local, LSH; about ten thousand parameters."""
    settings: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "feed_forward_size": 24,
        "num_heads": 2,
        "head_size": 8,
        "max_length": 64,
        "layers": tuple(LAYERS[index % 2] for index in range(depth)),
        "dropout": 0.1,
        "slice_length": 20,
        "seed": 3,
    }
    return ReformerConfig(**(settings | values))


def without_dropout(*, rotary: bool = False, full: bool = False) -> dict[str, Any]:
    """Settings for ``small_config``: one layer of each kind, nothing random."""
    base = 100.0 if rotary else None
    layers: list[Layer] = [Local(window_length=8, rotary_base=base), LSH(window_length=8)]
    if full:
        layers.append(Full(rotary_base=base))
    return {"layers": tuple(layers), "dropout": 0.0}


def small_model(config: ReformerConfig, *, weight_scale: float = 1.0) -> ReformerForCausalLM:
    """A model whose predictions are far from uniform, in training mode."""
    model = ReformerForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embedding" in name or name == "head.weight":
                parameter.mul_(10.0)
            parameter.mul_(weight_scale)
    return model.train()


def tokens(batch: int = 2, length: int = LENGTH, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, VOCABULARY, (batch, length), generator=generator)


def loss_gradients(model: ReformerForCausalLM, input_ids: Tensor, draw: int = 0) -> list[Tensor]:
    """Loss and the gradient of every parameter, for one pass."""
    model.zero_grad()
    loss = model(input_ids, labels=input_ids, draw=draw).loss
    loss.backward()
    return [loss.detach(), *gradients(model)]


def gradients(model: ReformerForCausalLM) -> list[Tensor]:
    found = []
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        found.append(parameter.grad.clone())
    return found


def assert_same_bits(found: list[Tensor], expected: list[Tensor]) -> None:
    for result, wanted in zip(found, expected, strict=True):
        assert torch.isfinite(result).all()
        assert torch.equal(result, wanted)


def assert_near(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    """Each tensor relative to its own largest entry."""
    for result, wanted in zip(found, expected, strict=True):
        error = float((result.detach() - wanted.detach()).abs().max())
        assert error <= tolerance * float(wanted.detach().abs().max()) + 1e-14

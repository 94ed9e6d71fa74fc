"""AdamW with warmup, cosine decay and gradient clipping; its state as named tensors."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from reformer.settings import TrainingSettings
from reformer.training.moments import MOMENTS, NarrowAdamW, local

Agree = Callable[[str | None], str | None]
"""From the tensor that each process has found to the one that all speak of."""


class NonFiniteError(ArithmeticError):
    """A NaN or an infinity in the loss, a gradient or a weight; the message names it."""


def build_optimizer(model: nn.Module, settings: TrainingSettings) -> torch.optim.AdamW:
    """AdamW, fused, with moments as the settings say; weight decay on matrices only."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    betas = (settings.adam_beta1, settings.adam_beta2)
    kind = NarrowAdamW if settings.moments == "bfloat16" else torch.optim.AdamW
    return kind(groups, lr=settings.learning_rate, betas=betas, fused=True)


def learning_rate(step: int, settings: TrainingSettings) -> float:
    """The rate of update number ``step`` (from 0): linear warmup, then half a cosine."""
    peak, warmup = settings.learning_rate, settings.warmup_steps
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, settings.steps - warmup))
    lowest = settings.final_learning_rate
    return peak * (lowest + (1.0 - lowest) * 0.5 * (1.0 + math.cos(math.pi * progress)))


def alone(name: str | None) -> str | None:
    """There is one process."""
    return name


def apply_update(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    rate: float,
    clip_norm: float,
    agree: Agree = alone,
) -> float:
    """Clip the gradients to a global norm, update, clear them; the norm before clipping.

    NonFiniteError, before any weight has changed, when a gradient, a weight or a moment is not
    finite.
    """
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    norm = float(_whole(nn.utils.get_total_norm(gradients.values())))
    if not math.isfinite(norm):
        raise bad_gradient(agree(find_non_finite(gradients)))
    require_finite(model, optimizer, agree)
    nn.utils.clip_grads_with_norm_(model.parameters(), clip_norm, torch.tensor(norm))
    set_rate(optimizer, rate)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm


def bad_gradient(name: str | None) -> NonFiniteError:
    """The error for a gradient with this name, or for a norm too large for its numbers."""
    what = f"the gradient of {name} holds" if name else "the gradients' norm reaches"
    return NonFiniteError(f"{what} NaN or infinity")


def require_finite(
    model: nn.Module, optimizer: torch.optim.Optimizer, agree: Agree = alone
) -> None:
    """NonFiniteError when a weight or a moment is not finite."""
    tensors = dict(model.named_parameters()) | optimizer_tensors(model, optimizer)
    name = agree(find_non_finite(tensors))
    if name is not None:
        raise NonFiniteError(f"{name} holds NaN or infinity")


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Let the next steps of the optimizer have this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def find_non_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The first name whose tensor, or this process's part of it, holds a NaN or an infinity."""
    for name, tensor in tensors.items():
        tensor = local(tensor)
        # A sum is finite only over what is finite, and much faster; a large one may overflow.
        if not bool(torch.isfinite(tensor.sum())) and not bool(torch.isfinite(tensor).all()):
            return name
    return None


def _whole(tensor: Tensor) -> Tensor:
    """The sum of all processes' parts, where there are parts."""
    whole: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return whole


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The moments under the names of their parameters: ``NAME.exp_avg``, ``NAME.exp_avg_sq``."""
    return {
        f"{name}.{moment}": optimizer.state[parameter][moment]
        for name, parameter in model.named_parameters()
        if parameter in optimizer.state
        for moment in MOMENTS
    }


def restore_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], step: int
) -> None:
    """The inverse of ``optimizer_tensors`` after ``step`` updates."""
    dtype = torch.bfloat16 if isinstance(optimizer, NarrowAdamW) else torch.float32
    for name, parameter in model.named_parameters():
        if f"{name}.exp_avg" not in tensors:
            continue
        moments = {m: tensors[f"{name}.{m}"].to(parameter.device) for m in MOMENTS}
        for moment, tensor in moments.items():
            if tensor.shape != parameter.shape:
                raise ValueError(
                    f"{name}.{moment} is {list(tensor.shape)}, not {list(parameter.shape)}"
                )
            if tensor.dtype != dtype:
                raise ValueError(f"{name}.{moment} is {tensor.dtype}, not {dtype}")
        count = torch.tensor(float(step), device=parameter.device)
        optimizer.state[parameter] = {"step": count, **moments}

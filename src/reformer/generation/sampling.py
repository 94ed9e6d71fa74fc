"""Choosing a token from logits: temperature, top-k, top-p. Pure functions on tensors [..., V]."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


class SamplingError(ValueError):
    """A sampling value that cannot work; the message names it and what would."""


@dataclass(frozen=True)
class Sampling:
    """How to choose. temperature 0 takes the likeliest token; None leaves a filter out."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise SamplingError(
                f"temperature is {self.temperature}: it must be 0 (always the likeliest token) "
                "or a positive number, such as 0.8"
            )
        if self.top_k is not None and self.top_k < 1:
            raise SamplingError(f"top_k is {self.top_k}: it must be 1 or more")
        if self.top_p is not None and not 0.0 < self.top_p <= 1.0:
            raise SamplingError(f"top_p is {self.top_p}: it must be above 0 and at most 1")


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """All but the k largest logits become -inf; ties with the k-th stay."""
    if k >= logits.shape[-1]:
        return logits
    least = logits.topk(k, dim=-1).values[..., -1:]
    return logits.masked_fill(logits < least, -math.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """The smallest set of likeliest tokens whose probability reaches p; the rest become -inf.

    The likeliest token always stays (Holtzman et al., 2020).
    """
    ordered, indices = logits.sort(dim=-1, descending=True, stable=True)
    probabilities = ordered.softmax(dim=-1)
    mass_before = probabilities.cumsum(dim=-1) - probabilities
    drop = mass_before >= p
    drop[..., 0] = False
    return logits.masked_fill(drop.scatter(-1, indices, drop), -math.inf)


def probabilities(logits: Tensor, sampling: Sampling) -> Tensor:
    """The distribution that is sampled from, float64 [..., V]: temperature, top-k, top-p."""
    logits = logits.double()
    if sampling.temperature == 0:
        return torch.nn.functional.one_hot(logits.argmax(dim=-1), logits.shape[-1]).double()
    logits = logits - logits.amax(dim=-1, keepdim=True)
    # A tiny temperature must not turn the largest logit, now 0, into 0 * inf.
    logits = (logits / max(sampling.temperature, 1e-300)).nan_to_num(nan=0.0)
    if sampling.top_k is not None:
        logits = keep_top_k(logits, sampling.top_k)
    if sampling.top_p is not None:
        logits = keep_top_p(logits, sampling.top_p)
    return logits.softmax(dim=-1)


def sample(logits: Tensor, sampling: Sampling, rng: torch.Generator) -> Tensor:
    """One token id per row: logits [B, V] to int64 [B]; ``rng`` is a CPU generator."""
    weights = probabilities(logits.detach().cpu(), sampling)
    return torch.multinomial(weights, 1, generator=rng).squeeze(-1)

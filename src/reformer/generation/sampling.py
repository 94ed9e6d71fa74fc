"""Choosing a token from logits. Pure functions on tensors [..., V], and one sequence's sampler.

In order: repetition penalty, temperature, min-p, top-k, top-p. Everything is computed in
float64 and from one row alone, so a sequence's tokens never depend on its batch.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from reformer.ops.randomness import generator


class SamplingError(ValueError):
    """A sampling value that cannot work; the message names it and what would."""


@dataclass(frozen=True)
class Sampling:
    """How to choose. temperature 0 takes the likeliest token; None leaves a filter out."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    """Drop tokens less likely than this share of the likeliest one's probability."""
    repetition_penalty: float = 1.0
    """Above 1: tokens that have occurred, in the prompt too, become less likely."""

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
        if self.min_p is not None and not 0.0 <= self.min_p <= 1.0:
            raise SamplingError(f"min_p is {self.min_p}: it must be from 0 to 1")
        if not (math.isfinite(self.repetition_penalty) and self.repetition_penalty > 0):
            raise SamplingError(
                f"repetition_penalty is {self.repetition_penalty}: it must be a positive number; "
                "1 changes nothing"
            )


def penalize(logits: Tensor, occurred: Tensor, penalty: float) -> Tensor:
    """Logits of tokens that occurred (bool [V]) divided by the penalty, negative ones multiplied.

    Keskar et al., 2019 (CTRL), section 4.1.
    """
    lowered = torch.where(logits > 0, logits / penalty, logits * penalty)
    return torch.where(occurred, lowered, logits)


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


def keep_min_p(logits: Tensor, p: float) -> Tensor:
    """Tokens at least p times as likely as the likeliest; the rest become -inf."""
    if p == 0:
        return logits
    return logits.masked_fill(logits < logits.amax(dim=-1, keepdim=True) + math.log(p), -math.inf)


def probabilities(logits: Tensor, sampling: Sampling) -> Tensor:
    """The distribution that is sampled from, float64 [..., V], repetition penalty aside."""
    logits = logits.double()
    if sampling.temperature == 0:
        return torch.nn.functional.one_hot(logits.argmax(dim=-1), logits.shape[-1]).double()
    logits = logits - logits.amax(dim=-1, keepdim=True)
    # A tiny temperature must not turn the largest logit, now 0, into 0 * inf.
    logits = (logits / max(sampling.temperature, 1e-300)).nan_to_num(nan=0.0)
    if sampling.min_p is not None:
        logits = keep_min_p(logits, sampling.min_p)
    if sampling.top_k is not None:
        logits = keep_top_k(logits, sampling.top_k)
    if sampling.top_p is not None:
        logits = keep_top_p(logits, sampling.top_p)
    return logits.softmax(dim=-1)


class Sampler:
    """Draws the tokens of one sequence, with a random stream of its own.

    seed names the stream; further names (``sample``) tell apart several samples of one request.
    """

    def __init__(self, sampling: Sampling, vocab_size: int, seed: int, sample: int = 0) -> None:
        self.sampling = sampling
        self._rng = generator(seed, sample) if sample else generator(seed)
        self._occurred = torch.zeros(vocab_size, dtype=torch.bool)

    def observe(self, token_ids: Iterable[int]) -> None:
        """Count tokens that were not drawn here, those of the prompt, as having occurred."""
        if self.sampling.repetition_penalty != 1.0:
            self._occurred[torch.tensor(list(token_ids), dtype=torch.int64)] = True

    def choose(self, logits: Tensor) -> int:
        """The next token from its logits [V]."""
        logits = logits.detach().cpu()
        if self.sampling.repetition_penalty != 1.0:
            logits = penalize(logits.double(), self._occurred, self.sampling.repetition_penalty)
        if self.sampling.temperature == 0:
            token_id = int(logits.argmax())
        else:
            weights = probabilities(logits, self.sampling)
            token_id = int(torch.multinomial(weights, 1, generator=self._rng))
        self._occurred[token_id] = True
        return token_id

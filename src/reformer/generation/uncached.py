"""Continuing a sequence under the chunk rule: a whole pass for every token.

Chunks are cut from the sorted sequence, so each new token moves the borders and changes what
earlier tokens see, and with it their keys and values in every later layer: nothing that could
be kept stays true.
"""

from collections.abc import Collection, Iterator, Sequence

import torch

from reformer.generation.sampling import Sampler
from reformer.models.language import ReformerForCausalLM


def generate_uncached(
    model: ReformerForCausalLM,
    prompt: Sequence[int],
    sampler: Sampler,
    *,
    max_new_tokens: int,
    stop_ids: Collection[int] = (),
) -> Iterator[int]:
    """New token ids as they are drawn, each from the latest ``max_length`` tokens before it."""
    model.eval()
    sampler.observe(prompt)
    ids = list(prompt)
    device = model.reformer.norm.weight.device
    for _ in range(max_new_tokens):
        ids = ids[-model.config.max_length :]
        with torch.no_grad():
            last = model.reformer(torch.tensor([ids], device=device))[:, -1]
            logits = model.head(model.reformer.norm(last))
        ids.append(sampler.choose(logits[0]))
        yield ids[-1]
        if ids[-1] in stop_ids:
            return

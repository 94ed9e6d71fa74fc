"""Generating tokens one by one from a language model."""

from collections.abc import Iterable, Iterator, Sequence

import torch

from reformer.data.tokenizer import Tokenizer
from reformer.generation.sampling import Sampling, sample
from reformer.models.language import ReformerForCausalLM
from reformer.ops.randomness import generator


class PromptError(ValueError):
    """A prompt that the model cannot take; the message says why."""


def generate(
    model: ReformerForCausalLM,
    prompt: Sequence[int],
    *,
    max_new_tokens: int,
    sampling: Sampling | None = None,
    seed: int = 0,
) -> Iterator[int]:
    """New token ids after ``prompt`` (at least one id), as they are drawn.

    The model sees the last ``max_length`` tokens. The same seed, prompt and model give the
    same ids. Works in evaluation mode and leaves the model in it.
    """
    vocab_size = model.config.vocab_size
    if len(prompt) == 0:
        raise PromptError("the prompt is empty: give at least one token")
    if not all(0 <= token_id < vocab_size for token_id in prompt):
        raise PromptError(
            f"the prompt holds the token id {max(prompt)}, but the model's vocabulary ends at "
            f"{vocab_size - 1}"
        )
    return _generate(model, list(prompt), max_new_tokens, sampling or Sampling(), seed)


def _generate(
    model: ReformerForCausalLM,
    ids: list[int],
    max_new_tokens: int,
    sampling: Sampling,
    seed: int,
) -> Iterator[int]:
    rng = generator(seed)
    model.eval()
    device = next(model.parameters()).device
    for _ in range(max_new_tokens):
        ids = ids[-model.config.max_length :]
        with torch.no_grad():
            logits = model(torch.tensor([ids], device=device)).logits
        token_id = int(sample(logits[:, -1], sampling, rng))
        ids.append(token_id)
        yield token_id


def encode_prompt(text: str, tokenizer: Tokenizer) -> list[int]:
    """The ids of a prompt; an empty one becomes a line break, after which any text may start."""
    data = (text or "\n").encode("utf-8", errors="surrogateescape")
    return [int(token_id) for ids in tokenizer.encode([data]) for token_id in ids]


def stream_text(token_ids: Iterable[int], tokenizer: Tokenizer) -> Iterator[str]:
    """Ids as pieces of text; a character that takes several ids comes out whole."""
    decoder = tokenizer.decoder()
    for token_id in token_ids:
        if piece := decoder.feed(token_id):
            yield piece
    if piece := decoder.finish():
        yield piece

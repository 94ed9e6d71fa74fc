"""Continuing sequences token by token: the model reads a token once and remembers it.

A ``Continuation`` is one sequence being written. ``advance`` moves any number of them by one
token each; what a sequence becomes does not depend on which others are moved with it.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from reformer.config import Full, ReformerConfig
from reformer.generation.extend import extend, new_cache
from reformer.generation.sampling import Sampler, Sampling
from reformer.generation.uncached import generate_uncached
from reformer.models.language import ReformerForCausalLM
from reformer.models.pretrained import PretrainedReformer
from reformer.nn.cache import CachedSequence, DecodeCache

FinishReason = Literal["stop", "length"]


class PromptError(ValueError):
    """A prompt that the model cannot take; the message says why."""


class Continuation:
    """One sequence being written: its cache row, and the tokens that are still to be read."""

    def __init__(
        self,
        row: CachedSequence,
        prompt: Sequence[int],
        sampler: Sampler,
        *,
        max_new_tokens: int,
        stop_ids: Collection[int] = (),
    ) -> None:
        """prompt: the ids to read before the first draw, after those that ``row`` holds."""
        self.row, self.sampler = row, sampler
        self.pending = list(prompt)
        self.output: list[int] = []
        self.finish_reason: FinishReason | None = None
        self._max_new_tokens, self._stop_ids = max_new_tokens, frozenset(stop_ids)
        sampler.observe(row.input_ids)
        sampler.observe(prompt)

    def accept(self, logits: Tensor) -> int:
        """Draw the next token from logits [V], which follow everything pending."""
        token_id = self.sampler.choose(logits)
        self.output.append(token_id)
        self.pending = [token_id]
        if token_id in self._stop_ids:
            self.finish_reason = "stop"
        elif len(self.output) >= self._max_new_tokens:
            self.finish_reason = "length"
        return token_id

    def make_room(self, cache: DecodeCache) -> None:
        """When the model's length is reached: begin again with the latest tokens alone.

        Half the length, or what is still to be written if that is less, becomes free, so the
        cost per token stays bounded.
        """
        max_length = cache.config.max_length
        if len(self.row) + len(self.pending) <= max_length:
            return
        free = min(self._max_new_tokens - len(self.output), max_length // 2)
        self.pending = [*self.row.input_ids, *self.pending][-(max_length - free) :]
        self.row = cache.new_row()


def advance(
    model: PretrainedReformer, cache: DecodeCache, continuations: Sequence[Continuation]
) -> list[int]:
    """Read what is pending, and draw one token for each sequence."""
    batch = cache.with_rows(continuation.row for continuation in continuations)
    logits = extend(model, [continuation.pending for continuation in continuations], batch)
    return [c.accept(row) for c, row in zip(continuations, logits.cpu(), strict=True)]


def generate(
    model: ReformerForCausalLM,
    prompt: Sequence[int],
    *,
    max_new_tokens: int,
    sampling: Sampling | None = None,
    seed: int = 0,
    stop_ids: Collection[int] = (),
) -> Iterator[int]:
    """New token ids after ``prompt`` (at least one id), as they are drawn.

    A token of ``stop_ids`` ends the sequence and is given out too. The same seed, prompt and
    model give the same ids. Text longer than the model's max_length is continued from its
    latest tokens. Models under the chunk rule run a whole forward pass for every token.
    """
    check_prompt(prompt, model.config)
    sampler = Sampler(sampling or Sampling(), model.config.vocab_size, seed)
    if not can_cache(model.config):
        return generate_uncached(
            model, prompt, sampler, max_new_tokens=max_new_tokens, stop_ids=stop_ids
        )
    cache = new_cache(model, undo_length=0)
    continuation = Continuation(
        cache.new_row(), prompt, sampler, max_new_tokens=max_new_tokens, stop_ids=stop_ids
    )
    return _generate(model, cache, continuation)


def _generate(
    model: ReformerForCausalLM, cache: DecodeCache, continuation: Continuation
) -> Iterator[int]:
    model.eval()
    while continuation.finish_reason is None:
        continuation.make_room(cache)
        yield from advance(model, cache, [continuation])


@dataclass(frozen=True)
class Completion:
    """A finished continuation: its new tokens, and whether a stop or the limit ended it."""

    token_ids: list[int]
    finish_reason: FinishReason
    text: str | None = None
    """Of the tokens, up to a stop string; None where no tokenizer was given."""


def generate_batch(
    model: ReformerForCausalLM,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    num_samples: int = 1,
    sampling: Sampling | None = None,
    seed: int = 0,
    stop_ids: Collection[int] = (),
    ends: Callable[[int, int, int], bool] | None = None,
) -> list[list[Completion]]:
    """``num_samples`` completions of each prompt, all written together.

    A prompt is read once however many samples follow. The first sample of a prompt is what
    ``generate`` writes, whatever else is in the batch. ends: called with (prompt number,
    sample number, new token); True ends that completion, as a stop token does.
    """
    for prompt in prompts:
        check_prompt(prompt, model.config)
    sampling, vocab_size = sampling or Sampling(), model.config.vocab_size
    samplers = [
        [Sampler(sampling, vocab_size, seed, sample) for sample in range(num_samples)]
        for _ in prompts
    ]
    if not can_cache(model.config):
        return _complete_uncached(
            model, prompts, samplers, max_new_tokens, frozenset(stop_ids), ends
        )
    model.eval()
    cache = new_cache(model, undo_length=0)
    groups = [
        _begin(model, cache, prompt, drawn, max_new_tokens, frozenset(stop_ids))
        for prompt, drawn in zip(prompts, samplers, strict=True)
    ]
    places = [(p, n, c) for p, group in enumerate(groups) for n, c in enumerate(group)]
    while running := [c for _, _, c in _running(places, ends)]:
        for continuation in running:
            continuation.make_room(cache)
        advance(model, cache, running)
    return [[Completion(c.output, c.finish_reason or "length") for c in g] for g in groups]


def _complete_uncached(
    model: ReformerForCausalLM,
    prompts: Sequence[Sequence[int]],
    samplers: Sequence[Sequence[Sampler]],
    max_new_tokens: int,
    stop_ids: Collection[int],
    ends: Callable[[int, int, int], bool] | None,
) -> list[list[Completion]]:
    """One text after the other: passes over whole sequences gain nothing from company."""
    completed: list[list[Completion]] = []
    for number, (prompt, group) in enumerate(zip(prompts, samplers, strict=True)):
        completed.append([])
        for sample, sampler in enumerate(group):
            output: list[int] = []
            reason: FinishReason = "length"
            for token_id in generate_uncached(
                model, prompt, sampler, max_new_tokens=max_new_tokens
            ):
                output.append(token_id)
                if token_id in stop_ids or (ends and ends(number, sample, token_id)):
                    reason = "stop"
                    break
            completed[-1].append(Completion(output, reason))
    return completed


def _running(
    places: list[tuple[int, int, Continuation]], ends: Callable[[int, int, int], bool] | None
) -> list[tuple[int, int, Continuation]]:
    """Tell ``ends`` about the newest tokens, and drop what has finished from ``places``."""
    for prompt, sample, continuation in places:
        if ends is not None and ends(prompt, sample, continuation.output[-1]):
            continuation.finish_reason = "stop"
    places[:] = [place for place in places if place[2].finish_reason is None]
    return places


def _begin(
    model: ReformerForCausalLM,
    cache: DecodeCache,
    prompt: Sequence[int],
    samplers: Sequence[Sampler],
    max_new_tokens: int,
    stop_ids: Collection[int],
) -> list[Continuation]:
    """Read the prompt once; each sample begins with its own draw from the same logits."""
    continuations = [
        Continuation(
            cache.new_row(), prompt, sampler, max_new_tokens=max_new_tokens, stop_ids=stop_ids
        )
        for sampler in samplers
    ]
    first = continuations[0]
    first.make_room(cache)
    logits = extend(model, [first.pending], cache.with_rows([first.row]))[0]
    for continuation in continuations:
        continuation.row = first.row.fork() if continuation is not first else first.row
        continuation.accept(logits)
    return continuations


def check_prompt(prompt: Sequence[int], config: ReformerConfig) -> None:
    """PromptError for no tokens, or for ids outside the vocabulary."""
    if len(prompt) == 0:
        raise PromptError("the prompt is empty: give at least one token")
    outside = [token_id for token_id in prompt if not 0 <= token_id < config.vocab_size]
    if outside:
        raise PromptError(
            f"the prompt holds the token id {outside[0]}, but the model's vocabulary is 0 to "
            f"{config.vocab_size - 1}"
        )


def can_cache(config: ReformerConfig) -> bool:
    """Whether tokens can be appended one by one: not under the chunk rule, whose chunks move."""
    return all(isinstance(layer, Full) or layer.rule == "window" for layer in config.layers)

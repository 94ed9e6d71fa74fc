"""Prompts to completions: what ``ReformerForCausalLM.generate`` and ``.stream`` do."""

from collections.abc import Iterator, Sequence
from operator import index
from typing import Any, NamedTuple, TypedDict

from torch import Tensor

from reformer.data.tokenizer import Tokenizer
from reformer.generation.beam import beam_search
from reformer.generation.decode import Completion, PromptError, generate, generate_batch
from reformer.generation.sampling import Sampling, SamplingError
from reformer.generation.text import WrittenText, encode_prompt
from reformer.models.language import ReformerForCausalLM

Prompt = str | Sequence[int] | Tensor
"""One text, or its token ids: a list, or a tensor [L]."""


class GenerationSettings(TypedDict, total=False):
    """How to continue a prompt; the defaults are those of ``Sampling``."""

    max_new_tokens: int
    """100 by default."""
    temperature: float
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float
    seed: int
    """Names the random stream, 0 by default: same seed and prompt, same text."""
    stop_ids: Sequence[int]
    """Tokens that end a completion; the one that does is its last."""
    stop: str | Sequence[str]
    """Strings that end a text before them; they need the tokenizer."""
    tokenizer: Tokenizer
    """For prompts and completions as text, such as ``tokenizer_in(folder)``."""


class _Plan(NamedTuple):
    """The settings, by what they are for."""

    flow: dict[str, Any]
    sampling: Sampling
    stop: Sequence[str]
    tokenizer: Tokenizer | None


def complete(
    model: ReformerForCausalLM,
    prompt: Prompt | Sequence[Prompt],
    num_samples: int,
    num_beams: int | None,
    *,
    length_penalty: float,
    settings: GenerationSettings,
) -> Any:
    """A list of ``num_samples`` completions; for several prompts, such a list for each.

    With num_beams the completions are the likeliest that beam search finds, best first.
    """
    plan = _plan(settings)
    prompts, is_one = _read_prompts(prompt, plan.tokenizer)
    if num_samples < 1:
        raise SamplingError(f"num_samples is {num_samples}: it must be 1 or more")
    if num_beams is not None:
        _check_beams(num_beams, num_samples, settings)
        found = [_search(model, ids, num_beams, length_penalty, plan.flow) for ids in prompts]
        found = [beams[:num_samples] for beams in found]
    else:
        ends = _StopStrings(plan.tokenizer, plan.stop) if plan.tokenizer and plan.stop else None
        found = generate_batch(
            model, prompts, num_samples=num_samples, sampling=plan.sampling, ends=ends, **plan.flow
        )
    completed = [[_with_text(completion, plan) for completion in group] for group in found]
    return completed[0] if is_one else completed


def stream(
    model: ReformerForCausalLM, prompt: Prompt, settings: GenerationSettings
) -> Iterator[Any]:
    """One completion as it is written: pieces of text with a tokenizer, token ids without."""
    plan = _plan(settings)
    prompts, is_one = _read_prompts(prompt, plan.tokenizer)
    if not is_one:
        raise PromptError("there are several prompts: stream takes one, generate takes many")
    token_ids = generate(model, prompts[0], sampling=plan.sampling, **plan.flow)
    if plan.tokenizer is None:
        return token_ids
    return _pieces(token_ids, WrittenText(plan.tokenizer, plan.stop))


class _StopStrings:
    """Whether a completion's text has met a stop string, token by token."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str]) -> None:
        self._texts: dict[tuple[int, int], WrittenText] = {}
        self._tokenizer, self._stop = tokenizer, stop

    def __call__(self, prompt: int, sample: int, token_id: int) -> bool:
        text = self._texts.setdefault((prompt, sample), WrittenText(self._tokenizer, self._stop))
        text.feed(token_id)
        return text.ended


def _pieces(token_ids: Iterator[int], written: WrittenText) -> Iterator[str]:
    for token_id in token_ids:
        if piece := written.feed(token_id):
            yield piece
        if written.ended:
            return
    if piece := written.finish():
        yield piece


def _read_prompts(given: Any, tokenizer: Tokenizer | None) -> tuple[list[list[int]], bool]:
    """Token ids of every prompt, and whether there was one rather than a list of them."""
    if hasattr(given, "tolist"):
        given = given.tolist()
    if isinstance(given, str) or not any(hasattr(item, "__len__") for item in given):
        return [_read_prompt(given, tokenizer)], True
    return [_read_prompt(prompt, tokenizer) for prompt in given], False


def _read_prompt(given: Any, tokenizer: Tokenizer | None) -> list[int]:
    if isinstance(given, str):
        if tokenizer is None:
            raise PromptError("the prompt is text: give tokenizer too, or token ids")
        return encode_prompt(given, tokenizer)
    try:
        return [index(token_id) for token_id in given]
    except TypeError as error:
        raise PromptError("a prompt is text, or a list of whole numbers, the token ids") from error


def _plan(settings: GenerationSettings) -> _Plan:
    known = GenerationSettings.__annotations__
    unknown = [name for name in settings if name not in known]
    if unknown:
        raise TypeError(f"{unknown[0]!r} is no setting of generation: use {', '.join(known)}")
    values: dict[str, Any] = dict(settings)
    tokenizer, stop = values.pop("tokenizer", None), values.pop("stop", ())
    stop = [stop] if isinstance(stop, str) else list(stop)
    if stop and tokenizer is None:
        raise SamplingError("stop is text: give tokenizer too, or token ids as stop_ids")
    flow = {"max_new_tokens": values.pop("max_new_tokens", 100)}
    flow |= {name: values.pop(name) for name in ("seed", "stop_ids") if name in values}
    if flow["max_new_tokens"] < 1:
        raise SamplingError(f"max_new_tokens is {flow['max_new_tokens']}: it must be 1 or more")
    return _Plan(flow, Sampling(**values), stop, tokenizer)


def _check_beams(num_beams: int, num_samples: int, settings: GenerationSettings) -> None:
    drawn = [n for n in settings if n not in ("max_new_tokens", "stop_ids", "tokenizer", "stop")]
    if drawn:
        raise SamplingError(f"{drawn[0]} is for drawing tokens: beam search draws none")
    if settings.get("stop"):
        raise SamplingError("stop strings do not end beams: give token ids as stop_ids")
    if 1 <= num_beams < num_samples:
        raise SamplingError(f"num_samples is {num_samples}: {num_beams} beams give no more")


def _search(
    model: ReformerForCausalLM,
    prompt: list[int],
    num_beams: int,
    length_penalty: float,
    flow: dict[str, Any],
) -> list[Completion]:
    beams = beam_search(model, prompt, num_beams=num_beams, length_penalty=length_penalty, **flow)
    ends = frozenset(flow.get("stop_ids", ()))
    return [
        Completion(beam.token_ids, "stop" if beam.token_ids[-1] in ends else "length")
        for beam in beams
    ]


def _with_text(completion: Completion, plan: _Plan) -> Completion:
    if plan.tokenizer is None:
        return completion
    written = WrittenText(plan.tokenizer, plan.stop)
    for token_id in completion.token_ids:
        written.feed(token_id)
    written.finish()
    return Completion(completion.token_ids, completion.finish_reason, written.text)

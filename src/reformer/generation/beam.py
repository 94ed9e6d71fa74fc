"""Beam search: the likeliest continuations, found by keeping the best few at every step."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch

from reformer.generation.decode import check_prompt
from reformer.generation.extend import extend, new_cache
from reformer.generation.sampling import SamplingError
from reformer.models.language import ReformerForCausalLM
from reformer.models.pretrained import PretrainedReformer
from reformer.nn.cache import CachedSequence, DecodeCache


@dataclass(frozen=True)
class Beam:
    """A continuation and the sum of its tokens' log-probabilities, in nats."""

    token_ids: list[int]
    log_probability: float

    def score(self, length_penalty: float) -> float:
        """log_probability / length^length_penalty (Wu et al., 2016, without the constant 5)."""
        return self.log_probability / max(1, len(self.token_ids)) ** length_penalty


def beam_search(
    model: ReformerForCausalLM,
    prompt: Sequence[int],
    *,
    num_beams: int,
    max_new_tokens: int,
    length_penalty: float = 1.0,
    stop_ids: Collection[int] = (),
) -> list[Beam]:
    """The ``num_beams`` best continuations that were found, best score first.

    A continuation ends with a token of ``stop_ids`` or after max_new_tokens. The prompt and
    its continuations must fit into the model's max_length.
    """
    check_prompt(prompt, model.config)
    cache = new_cache(model, undo_length=0)
    return search(
        model,
        cache,
        cache.new_row(),
        prompt,
        num_beams=num_beams,
        max_new_tokens=max_new_tokens,
        length_penalty=length_penalty,
        stop_ids=stop_ids,
    )


def search(
    model: PretrainedReformer,
    cache: DecodeCache,
    row: CachedSequence,
    prompt: Sequence[int],
    *,
    num_beams: int,
    max_new_tokens: int,
    length_penalty: float = 1.0,
    stop_ids: Collection[int] = (),
) -> list[Beam]:
    """The same from a row of the cache, after what it holds and then the prompt."""
    for name, value in (("num_beams", num_beams), ("max_new_tokens", max_new_tokens)):
        if value < 1:
            raise SamplingError(f"{name} is {value}: it must be 1 or more")
    model.eval()
    open_beams: list[tuple[Beam, CachedSequence]] = [(Beam([], 0.0), row)]
    pending = [list(prompt)]
    finished: list[Beam] = []
    for _ in range(max_new_tokens):
        logits = extend(model, pending, cache.with_rows(row for _, row in open_beams))
        candidates = _best(logits.double().log_softmax(-1), open_beams, 2 * num_beams)
        open_beams, ended = _split(candidates, num_beams, stop_ids)
        finished = sorted(
            finished + ended, key=lambda beam: beam.score(length_penalty), reverse=True
        )[:num_beams]
        if not open_beams or _settled(finished, open_beams, num_beams, length_penalty):
            break
        pending = [[beam.token_ids[-1]] for beam, _ in open_beams]
    else:
        finished += [beam for beam, _ in open_beams]
    return sorted(finished, key=lambda beam: beam.score(length_penalty), reverse=True)[:num_beams]


def _best(
    log_probabilities: torch.Tensor, beams: list[tuple[Beam, CachedSequence]], count: int
) -> list[tuple[Beam, CachedSequence]]:
    """The ``count`` likeliest one-token continuations, best first, with their parents' rows."""
    totals = torch.tensor([beam.log_probability for beam, _ in beams], dtype=torch.float64)
    sums = (log_probabilities.cpu() + totals[:, None]).flatten()
    values, places = sums.sort(descending=True, stable=True)
    vocab_size = log_probabilities.shape[1]
    best = []
    for value, place in zip(values[:count].tolist(), places[:count].tolist(), strict=True):
        parent, row = beams[place // vocab_size]
        best.append((Beam([*parent.token_ids, place % vocab_size], value), row))
    return best


def _split(
    candidates: list[tuple[Beam, CachedSequence]], num_beams: int, stop_ids: Collection[int]
) -> tuple[list[tuple[Beam, CachedSequence]], list[Beam]]:
    """The candidates that go on, each with a row of its own, and those that ended."""
    going = [(beam, row) for beam, row in candidates if beam.token_ids[-1] not in stop_ids]
    ended = [beam for beam, _ in candidates[:num_beams] if beam.token_ids[-1] in stop_ids]
    taken: set[int] = set()
    opened = []
    for beam, row in going[:num_beams]:
        opened.append((beam, row.fork() if id(row) in taken else row))
        taken.add(id(row))
    return opened, ended


def _settled(
    finished: list[Beam],
    open_beams: list[tuple[Beam, CachedSequence]],
    num_beams: int,
    length_penalty: float,
) -> bool:
    """Whether enough have ended that no open beam, as it stands, would be among the best."""
    if len(finished) < num_beams:
        return False
    best_open = max(beam.score(length_penalty) for beam, _ in open_beams)
    return finished[-1].score(length_penalty) >= best_open

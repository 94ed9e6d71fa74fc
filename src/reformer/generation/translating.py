"""What an encoder-decoder writes from a source: a translation, a summary, an answer.

The source is read once; its keys and values then serve every token that is written.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from reformer.data.pairs import marked_row
from reformer.data.tokenizer import Tokenizer
from reformer.generation.beam import search
from reformer.generation.decode import Continuation, FinishReason, advance
from reformer.generation.extend import new_cache
from reformer.generation.sampling import Sampler, Sampling, SamplingError
from reformer.generation.text import stream_text
from reformer.models.encoder_decoder import ReformerEncoderDecoder
from reformer.nn.cache import CachedSequence, DecodeCache

GREEDY = Sampling(temperature=0.0)


@dataclass(frozen=True)
class Translation:
    """What was written: its tokens without the mark that ended them, and its text."""

    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    log_probability: float | None = None
    """Sum over its tokens and the mark, in nats; None where no beams were searched."""


def translate(
    model: ReformerEncoderDecoder,
    tokenizer: Tokenizer,
    sources: Sequence[str],
    *,
    sampling: Sampling = GREEDY,
    seed: int = 0,
    max_new_tokens: int | None = None,
) -> list[Translation]:
    """A text for each source, all written together; by default the likeliest token at each step.

    A source longer than the model's sequences is read up to their length. max_new_tokens: by
    default as many as the model's sequences hold.
    """
    limit = _limit(model, max_new_tokens)
    model.eval()
    cache = new_cache(model, undo_length=0)
    written = [
        Continuation(
            _row(model, tokenizer, cache, source),
            [model.mark],
            Sampler(sampling, model.config.vocab_size, seed),
            max_new_tokens=limit,
            stop_ids=[model.mark],
        )
        for source in sources
    ]
    while running := [c for c in written if c.finish_reason is None]:
        advance(model, cache, running)
    return [_translation(model, tokenizer, c.output) for c in written]


def translate_by_beams(
    model: ReformerEncoderDecoder,
    tokenizer: Tokenizer,
    source: str,
    *,
    num_beams: int,
    length_penalty: float = 1.0,
    max_new_tokens: int | None = None,
) -> list[Translation]:
    """The likeliest texts for a source that beam search finds: ``num_beams``, best first."""
    limit = _limit(model, max_new_tokens)
    cache = new_cache(model, undo_length=0)
    beams = search(
        model.eval(),
        cache,
        _row(model, tokenizer, cache, source),
        [model.mark],
        num_beams=num_beams,
        max_new_tokens=limit,
        length_penalty=length_penalty,
        stop_ids=[model.mark],
    )
    return [_translation(model, tokenizer, b.token_ids, b.log_probability) for b in beams]


def fits(model: ReformerEncoderDecoder, tokenizer: Tokenizer, source: str) -> bool:
    """Whether the model reads all of a source."""
    return len(marked_row(source, tokenizer, model.config)) <= model.config.max_length


def _limit(model: ReformerEncoderDecoder, asked: int | None) -> int:
    longest = model.config.max_length
    if asked is not None and not 1 <= asked <= longest:
        raise SamplingError(
            f"max_new_tokens is {asked}: this model writes from 1 to {longest} tokens"
        )
    return asked or longest


def _row(
    model: ReformerEncoderDecoder, tokenizer: Tokenizer, cache: DecodeCache, source: str
) -> CachedSequence:
    """A sequence that remembers the source and holds no tokens yet."""
    ids = marked_row(source, tokenizer, model.config).tolist()
    if len(ids) > model.config.max_length:
        ids = [*ids[: model.config.max_length - 1], model.mark]
    row = cache.new_row()
    row.memory = model.reformer.remember(ids)
    return row


def _translation(
    model: ReformerEncoderDecoder,
    tokenizer: Tokenizer,
    token_ids: list[int],
    log_probability: float | None = None,
) -> Translation:
    stopped = token_ids[-1] == model.mark
    ids = token_ids[:-1] if stopped else token_ids
    text = "".join(stream_text(ids, tokenizer))
    return Translation(text, ids, "stop" if stopped else "length", log_probability)

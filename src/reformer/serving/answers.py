"""From the engine's events to text: one request's samples, as they are written."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from reformer.data.tokenizer import Tokenizer
from reformer.generation.text import WrittenText
from reformer.serving.engine import Engine
from reformer.serving.request import Event, Failed, Finished, Request, Ticket, Token


class DeadlineError(Exception):
    """The time for a request is over."""


class FailedError(Exception):
    """The engine could not finish a request."""


@dataclass(frozen=True)
class Piece:
    """Something new in one sample: text, tokens, or its end."""

    sample: int
    text: str = ""
    tokens: tuple[Token, ...] = ()
    finish_reason: str | None = None


@dataclass
class _Sample:
    written: WrittenText
    held: list[Token] = field(default_factory=list)
    """Tokens whose text has not been shown yet."""
    done: bool = False


class Answer:
    """A request under way. Use as an async context manager: leaving gives up what is unfinished."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        request: Request,
        stop: list[str],
        seconds: float,
    ) -> None:
        """Submit the request; BusyError or ClosingError when the engine does not take it."""
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.time() + seconds
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        samples = range(request.num_samples)
        self._samples = [_Sample(WrittenText(tokenizer, stop)) for _ in samples]
        self._stop_ids = request.stop_ids
        self.num_tokens = 0
        """Tokens written so far, in all samples."""
        self._ticket: Ticket = engine.submit(request, self._deliver)

    def _deliver(self, event: Event) -> None:
        """Called in the engine's thread."""
        try:
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)
        except RuntimeError:
            self._ticket.cancel()  # the loop is closed: nobody reads any more

    async def __aenter__(self) -> "Answer":
        return self

    async def __aexit__(self, *_: object) -> None:
        if not all(sample.done for sample in self._samples):
            self._ticket.cancel()

    async def pieces(self) -> AsyncIterator[Piece]:
        """What is written, until every sample has ended."""
        while not all(sample.done for sample in self._samples):
            try:
                async with asyncio.timeout_at(self._deadline):
                    event = await self._events.get()
            except TimeoutError as error:
                raise DeadlineError from error
            if isinstance(event, Failed):
                for sample in self._samples:
                    sample.done = True
                raise FailedError(event.reason)
            if not self._samples[event.sample].done:
                yield self._piece(event)

    def _piece(self, event: Token | Finished) -> Piece:
        sample = self._samples[event.sample]
        if isinstance(event, Finished):
            sample.done = True
            return Piece(event.sample, sample.written.finish(), _taken(sample), event.reason)
        self.num_tokens += 1
        if event.token_id in self._stop_ids:
            return Piece(event.sample)
        sample.held.append(event)
        text = sample.written.feed(event.token_id)
        if sample.written.ended:
            sample.done = True
            self._ticket.end(event.sample)
            return Piece(event.sample, text, _taken(sample), "stop")
        return Piece(event.sample, text, _taken(sample) if text else ())


def _taken(sample: _Sample) -> tuple[Token, ...]:
    tokens, sample.held = tuple(sample.held), []
    return tokens


def token_text(tokenizer: Tokenizer, token_id: int) -> str:
    """A single token as text; a part of a character shows as U+FFFD."""
    decoder = tokenizer.decoder()
    return decoder.feed(token_id) + decoder.finish()


def chat_logprobs(tokenizer: Tokenizer, tokens: tuple[Token, ...]) -> dict[str, Any]:
    """Log-probabilities in the form of chat completions."""

    def entry(token_id: int, logprob: float) -> dict[str, Any]:
        text = token_text(tokenizer, token_id)
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    content = []
    for token in tokens:
        top = [entry(token_id, logprob) for token_id, logprob in token.top]
        content.append({**entry(token.token_id, token.logprob or 0.0), "top_logprobs": top})
    return {"content": content, "refusal": None}


def completion_logprobs(
    tokenizer: Tokenizer, tokens: tuple[Token, ...], offset: int
) -> dict[str, Any]:
    """Log-probabilities in the form of completions; offset: characters written before."""
    texts = [token_text(tokenizer, token.token_id) for token in tokens]
    offsets = [offset + sum(map(len, texts[:place])) for place in range(len(texts))]
    return {
        "tokens": texts,
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [
            {token_text(tokenizer, token_id): logprob for token_id, logprob in token.top}
            for token in tokens
        ],
        "text_offset": offsets,
    }

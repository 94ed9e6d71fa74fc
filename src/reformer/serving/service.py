"""A model as a service: requests in text become requests in token ids, within its limits."""

import asyncio
import secrets
from dataclasses import dataclass

from reformer.data.chat_template import ChatEncoder, Message
from reformer.data.tokenizer import Tokenizer
from reformer.generation.sampling import Sampling
from reformer.generation.text import encode_prompt
from reformer.serving.answers import Answer
from reformer.serving.engine import Engine
from reformer.serving.errors import ApiError, Refusal, bad_request
from reformer.serving.request import BusyError, ClosingError, Request
from reformer.serving.schema import ChatBody, CompletionBody

_COMPLETION_TOKENS = 16
"""What a completion gets when it names no number, as in OpenAI's API."""


@dataclass(frozen=True)
class Service:
    """What the routes need to know."""

    name: str
    engine: Engine
    tokenizer: Tokenizer
    encoder: ChatEncoder
    vocab_size: int
    max_length: int
    answer_tokens: int = 512
    """Longest answer in a chat that names no number."""
    request_seconds: float = 300.0
    """Time for a request, waiting included."""

    def require_model(self, name: str | None) -> None:
        """ApiError 404 for another model than this."""
        if name not in (None, "", self.name):
            message = f"there is no model {name!r}; this is {self.name!r}"
            raise ApiError(Refusal(404, message, code="model_not_found"))

    async def completion(self, body: CompletionBody) -> Request:
        """The engine's request for a completion."""
        self.require_model(body.model)
        prompt = body.prompt
        if isinstance(prompt, list) and isinstance(prompt[0], int):
            ids = [token_id for token_id in prompt if isinstance(token_id, int)]
            if max(ids) >= self.vocab_size:
                raise bad_request(f"prompt: token ids go from 0 to {self.vocab_size - 1}")
        else:
            text = prompt if isinstance(prompt, str) else str(prompt[0])
            ids = await asyncio.to_thread(encode_prompt, _encodable(text), self.tokenizer)
        most = body.max_tokens or min(_COMPLETION_TOKENS, max(1, self.max_length - len(ids)))
        return self._request(ids, most, body, frozenset(), body.logprobs)

    async def chat(self, body: ChatBody) -> Request:
        """The engine's request for the next message of a chat."""
        self.require_model(body.model)
        messages = [
            Message("system" if m.role == "developer" else m.role, _encodable(m.text), m.name)
            for m in body.messages
        ]
        ids = await asyncio.to_thread(self.encoder.conversation, messages)
        room = max(1, self.max_length - len(ids))
        most = body.max_completion_tokens or body.max_tokens or min(self.answer_tokens, room)
        if body.top_logprobs is not None and not body.logprobs:
            raise bad_request("top_logprobs: it needs logprobs to be true")
        num_logprobs = (body.top_logprobs or 0) if body.logprobs else None
        stop_ids = frozenset(self.encoder.markers.values())
        return self._request(ids, most, body, stop_ids, num_logprobs)

    def _request(
        self,
        ids: list[int],
        max_new_tokens: int,
        body: CompletionBody | ChatBody,
        stop_ids: frozenset[int],
        num_logprobs: int | None,
    ) -> Request:
        if len(ids) + max_new_tokens > self.max_length:
            raise bad_request(
                f"the prompt has {len(ids)} tokens and max_tokens is {max_new_tokens}: together "
                f"they may be at most {self.max_length}",
                code="context_length_exceeded",
            )
        num_samples = body.n or 1
        if num_samples > self.engine.settings.num_slots:
            raise bad_request(f"n: this server takes at most {self.engine.settings.num_slots}")
        sampling = Sampling(
            temperature=1.0 if body.temperature is None else body.temperature,
            top_k=body.top_k,
            top_p=body.top_p,
            min_p=body.min_p,
            repetition_penalty=body.repetition_penalty or 1.0,
        )
        seed = secrets.randbits(62) if body.seed is None else body.seed
        return Request(ids, max_new_tokens, sampling, seed, num_samples, stop_ids, num_logprobs)

    def submit(self, request: Request, stop: list[str]) -> Answer:
        """Hand a request to the engine; ApiError 429 or 503 when it takes none now."""
        try:
            return Answer(self.engine, self.tokenizer, request, stop, self.request_seconds)
        except BusyError as error:
            refusal = Refusal(429, str(error), "rate_limit_error", "queue_full")
            raise ApiError(refusal, retry_after=1) from error
        except ClosingError as error:
            raise ApiError(Refusal(503, str(error), "server_error"), retry_after=5) from error


def _encodable(text: str) -> str:
    """The text without lone surrogates, which JSON can hold and UTF-8 cannot."""
    return text.encode("utf-8", errors="replace").decode()

"""The routes: OpenAI's completions and chats, health, metrics, and a page to try the model."""

import asyncio
import json
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib import resources
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from reformer.serving.answers import (
    Answer,
    DeadlineError,
    FailedError,
    Piece,
    chat_logprobs,
    completion_logprobs,
)
from reformer.serving.bodies import read_body
from reformer.serving.errors import ApiError, Refusal
from reformer.serving.guard import Guard
from reformer.serving.metrics import exposition
from reformer.serving.schema import ChatBody, CompletionBody
from reformer.serving.service import Service

_OVERDUE = Refusal(504, "the time for this request is over", "server_error")
_PAGE = {"/": "index.html", "/page.css": "page.css", "/page.js": "page.js"}
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
_PAGE_HEADERS = {
    "content-security-policy": "default-src 'self'; img-src data:; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


def build_app(
    service: Service, *, api_key: str | None, body_bytes: int, hosts: frozenset[str] | None
) -> Guard:
    """The whole ASGI application."""
    routes = Routes(service)
    app = Starlette(
        routes=[
            Route("/healthz", routes.healthy),
            Route("/readyz", routes.ready),
            Route("/metrics", routes.metrics),
            Route("/v1/models", routes.models),
            Route("/v1/models/{name:path}", routes.model),
            Route("/v1/completions", routes.completions, methods=["POST"]),
            Route("/v1/chat/completions", routes.chat_completions, methods=["POST"]),
            *(Route(path, _page(name)) for path, name in _PAGE.items()),
        ],
        exception_handlers={ApiError: _api_error, HTTPException: _http_error},
    )
    return Guard(app, api_key=api_key, body_bytes=body_bytes, hosts=hosts)


class Routes:
    """One method for each route."""

    def __init__(self, service: Service) -> None:
        self.service, self._started = service, int(time.time())

    async def healthy(self, _request: Request) -> Response:
        """The process answers."""
        return PlainTextResponse("ok\n")

    async def ready(self, _request: Request) -> Response:
        """New requests are taken."""
        closing = self.service.engine.closing
        return PlainTextResponse("closing\n" if closing else "ok\n", 503 if closing else 200)

    async def metrics(self, _request: Request) -> Response:
        """Counters for Prometheus."""
        text = exposition(self.service.engine.counters)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    async def models(self, _request: Request) -> Response:
        """The one model."""
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def model(self, request: Request) -> Response:
        """The model of this name."""
        self.service.require_model(request.path_params["name"])
        return JSONResponse(self._model())

    def _model(self) -> dict[str, Any]:
        return {
            "id": self.service.name,
            "object": "model",
            "created": self._started,
            "owned_by": "reformer",
            "max_length": self.service.max_length,
        }

    async def completions(self, request: Request) -> Response:
        """Text that continues a prompt."""
        body = await read_body(request, CompletionBody)
        asked = await self.service.completion(body)
        answer = self.service.submit(asked, body.stop_strings)
        form = _CompletionForm(self.service, body.logprobs is not None)
        return await _respond(request, answer, form, body, len(asked.prompt))

    async def chat_completions(self, request: Request) -> Response:
        """The next message of a conversation."""
        body = await read_body(request, ChatBody)
        asked = await self.service.chat(body)
        answer = self.service.submit(asked, body.stop_strings)
        form = _ChatForm(self.service, bool(body.logprobs))
        return await _respond(request, answer, form, body, len(asked.prompt))


class _Form(ABC):
    """How answers of one kind look. One instance for each request."""

    prefix = ""
    kind = ""
    chunk_kind = ""

    def __init__(self, service: Service, with_logprobs: bool) -> None:
        self._service, self.with_logprobs = service, with_logprobs
        self._head = {
            "id": f"{self.prefix}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": service.name,
        }

    def whole(self, pieces: list[Piece], usage: dict[str, int]) -> dict[str, Any]:
        """The answer to a request without streaming: one piece for each sample."""
        choices = [self.choice(piece) for piece in pieces]
        return {**self._head, "object": self.kind, "choices": choices, "usage": usage}

    def chunk(self, choices: list[dict[str, Any]], usage: dict[str, int] | None) -> dict[str, Any]:
        """One event of a stream."""
        values = {**self._head, "object": self.chunk_kind, "choices": choices}
        return values if usage is None else {**values, "usage": usage}

    @abstractmethod
    def choice(self, piece: Piece) -> dict[str, Any]:
        """One sample of an answer without streaming."""

    @abstractmethod
    def delta(self, piece: Piece) -> dict[str, Any]:
        """What an event of a stream adds to a sample."""


class _CompletionForm(_Form):
    prefix, kind, chunk_kind = "cmpl", "text_completion", "text_completion"

    def __init__(self, service: Service, with_logprobs: bool) -> None:
        super().__init__(service, with_logprobs)
        self._offsets: dict[int, int] = {}

    def choice(self, piece: Piece) -> dict[str, Any]:
        logprobs = None
        if self.with_logprobs:
            offset = self._offsets.get(piece.sample, 0)
            logprobs = completion_logprobs(self._service.tokenizer, piece.tokens, offset)
            self._offsets[piece.sample] = offset + len(piece.text)
        return {
            "index": piece.sample,
            "text": piece.text,
            "logprobs": logprobs,
            "finish_reason": piece.finish_reason,
        }

    delta = choice


class _ChatForm(_Form):
    prefix, kind, chunk_kind = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(self, service: Service, with_logprobs: bool) -> None:
        super().__init__(service, with_logprobs)
        self._begun: set[int] = set()

    def choice(self, piece: Piece) -> dict[str, Any]:
        message = {"role": "assistant", "content": piece.text, "refusal": None}
        return self._around(piece, "message", message)

    def delta(self, piece: Piece) -> dict[str, Any]:
        delta = {"content": piece.text}
        if piece.sample not in self._begun:
            self._begun.add(piece.sample)
            delta = {"role": "assistant", **delta}
        return self._around(piece, "delta", delta)

    def _around(self, piece: Piece, name: str, value: dict[str, Any]) -> dict[str, Any]:
        logprobs = None
        if self.with_logprobs:
            logprobs = chat_logprobs(self._service.tokenizer, piece.tokens)
        return {
            "index": piece.sample,
            name: value,
            "logprobs": logprobs,
            "finish_reason": piece.finish_reason,
        }


async def _respond(
    request: Request,
    answer: Answer,
    form: _Form,
    body: CompletionBody | ChatBody,
    prompt_tokens: int,
) -> Response:
    if body.stream:
        wanted = body.stream_options is not None and bool(body.stream_options.include_usage)
        return _EventStream(answer, _events(answer, form, prompt_tokens, wanted))
    async with answer:
        pieces = await _unless_disconnected(request, _whole(answer))
    return JSONResponse(form.whole(pieces, _usage(prompt_tokens, answer)))


async def _whole(answer: Answer) -> list[Piece]:
    """Every sample as one piece, in order."""
    found: dict[int, Piece] = {}
    try:
        async for piece in answer.pieces():
            before = found.get(piece.sample, Piece(piece.sample))
            found[piece.sample] = Piece(
                piece.sample,
                before.text + piece.text,
                before.tokens + piece.tokens,
                piece.finish_reason,
            )
    except DeadlineError:
        raise ApiError(_OVERDUE) from None
    except FailedError as error:
        raise ApiError(Refusal(500, str(error), "server_error")) from None
    return [found[sample] for sample in sorted(found)]


async def _unless_disconnected(request: Request, work: Awaitable[list[Piece]]) -> list[Piece]:
    """The result of ``work``, which is given up when the client goes away."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ApiError(Refusal(499, "the client went away"))
        return working.result()
    finally:
        leaving.cancel()
        working.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _events(
    answer: Answer, form: _Form, prompt_tokens: int, with_usage: bool
) -> AsyncIterator[str]:
    """The answer as server-sent events."""
    try:
        async for piece in answer.pieces():
            if piece.text or piece.tokens or piece.finish_reason:
                yield _event(form.chunk([form.delta(piece)], None))
        if with_usage:
            yield _event(form.chunk([], _usage(prompt_tokens, answer)))
    except DeadlineError:
        yield _event(_OVERDUE.body())
    except FailedError as error:
        yield _event(Refusal(500, str(error), "server_error").body())
    yield "data: [DONE]\n\n"


def _event(values: dict[str, Any]) -> str:
    return f"data: {json.dumps(values, separators=(',', ':'))}\n\n"


def _usage(prompt_tokens: int, answer: Answer) -> dict[str, int]:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": answer.num_tokens,
        "total_tokens": prompt_tokens + answer.num_tokens,
    }


class _EventStream(StreamingResponse):
    """Server-sent events; however the response ends, what is unfinished is given up."""

    def __init__(self, answer: Answer, events: AsyncIterator[str]) -> None:
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._answer:
            await super().__call__(scope, receive, send)


def _page(name: str) -> Callable[[Request], Awaitable[Response]]:
    data = resources.files("reformer.serving").joinpath("page", name).read_bytes()
    media_type = _TYPES[name.rpartition(".")[2]]

    async def route(_request: Request) -> Response:
        return Response(data, media_type=media_type, headers=_PAGE_HEADERS)

    return route


async def _api_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return JSONResponse(error.refusal.body(), error.refusal.status, headers=error.headers)


async def _http_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    refusal = Refusal(error.status_code, error.detail)
    return JSONResponse(refusal.body(), error.status_code, headers=error.headers)

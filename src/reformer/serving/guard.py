"""What every request passes before a route sees it: host, key, and size.

Plain ASGI, so that nothing is read or parsed for a request that is refused.
"""

import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from reformer.serving.errors import ApiError, Refusal
from reformer.serving.protocol import HEAD_BYTES

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN_PATHS = ("/healthz", "/readyz", "/", "/page.css", "/page.js")
"""Paths without secrets, which need no key: health, and the page, whose requests carry one."""


class Guard:
    """ASGI middleware. hosts: names that the Host header may have; None allows all."""

    def __init__(
        self, app: App, *, api_key: str | None, body_bytes: int, hosts: frozenset[str] | None
    ) -> None:
        self._app, self._body_bytes, self._hosts = app, body_bytes, hosts
        self._key = None if api_key is None else api_key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._check(scope)
        if refusal is not None:
            await _answer(refusal, send)
            return
        received = 0

        async def limited() -> MutableMapping[str, Any]:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._body_bytes:
                raise ApiError(self._too_large())
            return message

        await self._app(scope, limited, send)

    def _check(self, scope: Scope) -> Refusal | None:
        headers = dict(scope["headers"])
        if sum(len(name) + len(value) for name, value in scope["headers"]) > HEAD_BYTES:
            return Refusal(431, "the request head is too long")
        host = headers.get(b"host", b"").decode("latin-1").rsplit(":", 1)[0].strip("[]")
        if self._hosts is not None and host not in self._hosts:
            return Refusal(421, f"this server is not {host!r}")
        if scope["path"] not in OPEN_PATHS and not self._has_key(headers):
            return Refusal(401, "the API key is missing or wrong", code="invalid_api_key")
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or len(length) > 18 or int(length) > self._body_bytes:
            return self._too_large()
        return None

    def _has_key(self, headers: dict[bytes, bytes]) -> bool:
        if self._key is None:
            return True
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        right = hmac.compare_digest(given.strip(), self._key)
        return scheme.lower() == b"bearer" and right

    def _too_large(self) -> Refusal:
        return Refusal(413, f"the request has more than {self._body_bytes} bytes")


async def _answer(refusal: Refusal, send: Send) -> None:
    body = json.dumps(refusal.body()).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if refusal.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

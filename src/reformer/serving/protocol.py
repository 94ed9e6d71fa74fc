"""uvicorn's HTTP connection, with a clock: slow and oversized requests do not hold it for long.

A request, head and body, must arrive within a time, and a response must keep being read. A
head that is too long is answered with 431, others that cannot be understood with 400.
"""

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_SECONDS = 8.0
"""Time for a whole request to arrive."""
UNREAD_SECONDS = 30.0
"""Time for which a client may leave a full response buffer unread."""
HEAD_BYTES = 16384
"""Longest request line and headers together."""
SURPLUS_BYTES = 1 << 20
"""What a client may still send of a body when it has been answered; enough to read the answer."""

_TOO_LONG = b'{"error":{"message":"the request head is too long","type":"invalid_request_error"}}'


class TimedProtocol(H11Protocol):
    """One connection. It is closed when its client is too slow."""

    _arriving: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None
    _surplus = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._arriving = self.loop.call_later(REQUEST_SECONDS, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._has_arrived()
        self._is_read()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._arriving is None and self.conn.their_state is h11.IDLE:
            self._arriving = self.loop.call_later(REQUEST_SECONDS, self.transport.abort)
        if self._was_answered_early():
            self._surplus += len(data)
            if self._surplus > SURPLUS_BYTES:
                self.transport.abort()
                return
        super().data_received(data)

    def _was_answered_early(self) -> bool:
        """Whether a response, a refusal, is complete before the request is."""
        answered = self.conn.our_state in (h11.DONE, h11.MUST_CLOSE)
        return answered and self.conn.their_state is h11.SEND_BODY

    def handle_events(self) -> None:
        super().handle_events()
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._has_arrived()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.loop.call_later(UNREAD_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._is_read()

    def _has_arrived(self) -> None:
        if self._arriving is not None:
            self._arriving.cancel()
            self._arriving = None

    def _is_read(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, or whose head is too long, and close."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.close()  # in the middle of a response
            return
        if len(self.conn.trailing_data[0]) <= HEAD_BYTES:
            super().send_400_response(msg)
            return
        headers = [
            ("content-type", "application/json"),
            ("content-length", str(len(_TOO_LONG))),
            ("connection", "close"),
        ]
        head = self.conn.send(h11.Response(status_code=431, headers=headers))
        self.transport.write((head or b"") + (self.conn.send(h11.Data(data=_TOO_LONG)) or b""))
        self.transport.close()

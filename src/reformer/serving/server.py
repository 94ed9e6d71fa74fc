"""The process: a listening socket, uvicorn, and an orderly end."""

import ipaddress
import logging
import socket
from dataclasses import dataclass

import uvicorn

from reformer.serving.http import build_app
from reformer.serving.protocol import HEAD_BYTES, TimedProtocol
from reformer.serving.service import Service


class ServeError(ValueError):
    """A server that cannot be started as asked; the message says why."""


@dataclass(frozen=True)
class ServerSettings:
    """Where to listen, and what a client may do."""

    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = None
    body_bytes: int = 8 << 20
    connections: int = 512
    grace_seconds: int = 30

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65536:
            raise ServeError(f"port is {self.port}: it must be from 0 to 65535")
        for name in ("body_bytes", "connections", "grace_seconds"):
            if not 1 <= getattr(self, name) < 2**40:
                raise ServeError(f"{name} is {getattr(self, name)}: it must be 1 or more")
        if self.api_key is not None and not (self.api_key.isascii() and len(self.api_key) >= 8):
            raise ServeError("the API key must be at least 8 plain characters")
        if self.api_key is None and not self.is_local:
            raise ServeError(
                f"host is {self.host!r}: a server that other machines can reach needs an API key "
                "(REFORMER_API_KEY or --api-key-file)"
            )

    @property
    def is_local(self) -> bool:
        """Whether only this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def hosts(self) -> frozenset[str] | None:
        """Host headers to accept: without a key, other names would let web pages in."""
        if self.api_key is not None:
            return None
        return frozenset({"localhost", "127.0.0.1", "::1", self.host})


class _Server(uvicorn.Server):
    """uvicorn, telling the engine when it is asked to stop."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._engine = service.engine

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._engine.drain()
        await super().shutdown(sockets)


def listen(settings: ServerSettings) -> socket.socket:
    """The listening socket; ServeError when the address cannot be had."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.host, settings.port))
    except OSError as error:
        listening.close()
        raise ServeError(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}"
        ) from error
    return listening


def serve(service: Service, settings: ServerSettings, listening: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT; then finish what was accepted, within the grace period."""
    app = build_app(
        service, api_key=settings.api_key, body_bytes=settings.body_bytes, hosts=settings.hosts
    )
    config = uvicorn.Config(
        app,
        http=TimedProtocol,
        ws="none",
        lifespan="off",
        access_log=False,
        log_level=logging.WARNING,
        server_header=False,
        limit_concurrency=settings.connections,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=settings.grace_seconds,
        h11_max_incomplete_event_size=HEAD_BYTES,
    )
    try:
        _Server(config, service).run(sockets=[listening])
    finally:
        service.engine.close(timeout=5)

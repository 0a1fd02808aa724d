"""A small application behind all guards, asked in this process or through a socket."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
from fastapi import FastAPI, Request
from starlette.responses import StreamingResponse
from starlette.types import ASGIApp
from support.serving import serving

from mtad.server.api.errors import answer_errors
from mtad.server.http.keys import Keys
from mtad.server.http.middleware import protect
from mtad.server.ops.logs import LineFormatter, RequestLog
from mtad.server.ops.metrics import Metrics
from mtad.server.settings import ServerSettings
from mtad.server.values import LogFormat

KEYS = Keys({b"right-key-1": "ann", "schlüssel-2".encode(): "bob"})
SECRET = "xyzzy-secret-prompt"


class _Lines(logging.Handler):
    """Keeps lines."""

    def __init__(self, lines: list[str], formatter: logging.Formatter) -> None:
        super().__init__()
        self._lines, self.formatter = lines, formatter

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(self.format(record))


def log_to(lines: list[str], form: LogFormat = "json") -> logging.Logger:
    """A logger of its own whose lines are kept."""
    logger = logging.Logger("requests", logging.INFO)
    logger.addHandler(_Lines(lines, LineFormatter(form)))
    return logger


@dataclass
class Gate:
    """What some routes wait for; opened from any thread.

    Attributes:
        is_open: whether they go on.
        has_left: whether the client of `/v1/flood` has gone.
    """

    is_open: bool = False
    has_left: bool = False

    async def passed(self) -> None:
        while not self.is_open:
            await asyncio.sleep(0.001)


@dataclass
class Site:
    """The application with its request log.

    Attributes:
        settings: of its guards.
        keys: that open it.
        gate: what `/v1/stream` and `/v1/wait` wait for.
        lines: of the log.
    """

    settings: ServerSettings
    keys: Keys
    gate: Gate = field(default_factory=Gate)
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        routes = _routes(self.gate)
        answer_errors(routes)
        protect(routes, self.settings, self.keys)
        self.app: ASGIApp = RequestLog(routes, Metrics(), log=log_to(self.lines))

    def client(self) -> httpx.AsyncClient:
        """A client in this process, without a socket."""
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        return httpx.AsyncClient(
            base_url="http://127.0.0.1:8000", transport=transport, trust_env=False
        )

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """One response, in this process."""

        async def asked() -> httpx.Response:
            async with self.client() as client:
                return await client.request(method, path, **options)

        return asyncio.run(asked())


def site(keys: Keys | None = None, **settings: Any) -> Site:
    """The application with these keys and settings."""
    return Site(ServerSettings(**settings), keys or Keys())


@dataclass(frozen=True)
class Listening:
    """The application on a port."""

    site: Site
    url: str

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        # there is no TLS here: verify=False saves the reading of certificates
        with httpx.Client(base_url=self.url, trust_env=False, timeout=30, verify=False) as client:
            return client.request(method, path, **options)

    def connected(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def raw(self, data: bytes) -> bytes:
        """What comes back until the server closes the connection."""
        with self.connected() as sock:
            sock.sendall(data)
            return everything(sock)


@contextlib.contextmanager
def listening(found: Site) -> Iterator[Listening]:
    """The application on a port, until the end of the context."""
    with serving(found.app, NO_SCHEDULER, found.settings) as served:
        try:
            yield Listening(found, served.url)
        finally:
            found.gate.is_open = True


def everything(sock: socket.socket) -> bytes:
    """All bytes until the other side closes."""
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := sock.recv(65536):
            parts.append(part)
    return b"".join(parts)


def error(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The error of an answer, whose shape is OpenAI's."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    return dict(body["error"])


class _NoScheduler:
    """Stands where a scheduler would; nothing may be asked of it."""

    pair: Any = None
    submit: Any = None
    cancel: Any = None
    load: Any = None


NO_SCHEDULER: Any = _NoScheduler()


def _routes(gate: Gate) -> FastAPI:
    app = FastAPI(docs_url=None, redoc_url=None)

    @app.get("/health")
    @app.get("/health/ready")
    @app.get("/version")
    @app.get("/")
    @app.get("/page/main.js")
    @app.get("/metrics")
    @app.get("/v1/models")
    def fine(request: Request) -> dict[str, Any]:
        return {"id": request.state.request_id, "client": request.state.client}

    @app.post("/v1/echo")
    async def echo(request: Request) -> dict[str, Any]:
        body = await request.body()
        return {"length": len(body), "client": request.state.client}

    @app.post("/v1/wait")
    async def wait() -> dict[str, Any]:
        await gate.passed()
        return {}

    @app.post("/v1/stream")
    async def stream() -> StreamingResponse:
        async def parts() -> Any:
            yield "one"
            await gate.passed()
            yield "two"

        return StreamingResponse(parts())

    @app.post("/v1/flood")
    async def flood() -> StreamingResponse:
        async def parts() -> Any:
            try:
                while True:
                    yield "x" * 100_000
                    await asyncio.sleep(0)
            finally:
                gate.has_left = True

        return StreamingResponse(parts())

    @app.post("/v1/fail")
    async def fail(request: Request) -> None:
        raise RuntimeError((await request.body()).decode())

    return app

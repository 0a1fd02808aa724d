"""What stands between the network and the routes: identity, limits, keys.

All of it is plain ASGI, so that streams pass through untouched and a client that leaves is noticed.
Knows no route but those that are open to all.
"""

from __future__ import annotations

import re
import secrets
from collections import Counter
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mtad.server.http.bodies import BodyGuard
from mtad.server.http.keys import Keys
from mtad.server.http.origins import OriginGuard
from mtad.server.http.refusal import Refusal, header
from mtad.server.page import SAFE
from mtad.server.settings import ServerSettings

OPEN_PATHS = ("/", "/version", "/health", "/favicon.ico")
OPEN_FOLDERS = ("/health/", "/page/")
"""What needs no key: the page, which has a field for one, and what tells that the server is up."""

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_SAFETY = (
    *((name.lower().encode(), value.encode()) for name, value in SAFE.items()),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
)


def protect(app: FastAPI, settings: ServerSettings, keys: Keys) -> None:
    """Put every guard in front of an application's routes.

    Routes find `request_id` and `client` (the name of the key's owner, None without keys) in the
    request's state.

    Args:
        app: before its first request.
        settings: limits, and where the server listens.
        keys: that open it.
    """
    app.add_middleware(BodyGuard, settings.max_body_bytes, settings.body_timeout_s)
    app.add_middleware(ConcurrencyGuard, settings.max_concurrent_per_key)
    app.add_middleware(KeyGuard, keys)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["X-Request-Id", "Retry-After"],
        )
    app.add_middleware(OriginGuard, settings)
    app.add_middleware(HeaderGuard, settings.max_header_bytes)
    app.add_middleware(Identity)


def state_of(scope: Scope) -> MutableMapping[str, Any]:
    """What is known about a request, for those further in."""
    state: MutableMapping[str, Any] = scope.setdefault("state", {})
    return state


def request_id_of(scope: Scope) -> str:
    """The client's id of a request if it is a sane one, else one of our own."""
    if "request_id" not in state_of(scope):
        given = header(scope, b"x-request-id")
        is_sane = len(given) == 1 and _REQUEST_ID.fullmatch(given[0])
        state_of(scope)["request_id"] = given[0].decode() if is_sane else new_request_id()
    return str(state_of(scope)["request_id"])


def new_request_id() -> str:
    """An id that no other request has."""
    return f"req-{secrets.token_hex(12)}"


@dataclass(frozen=True)
class Identity:
    """Gives every answer the request's id and the headers that keep browsers careful.

    Attributes:
        app: what comes after.
    """

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand on; answer 500 if nothing else answered."""
        if scope["type"] == "websocket":
            return await send({"type": "websocket.close", "code": 1008})
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        extra = ((b"x-request-id", request_id_of(scope).encode()), *_SAFETY)
        begun = False

        async def send_more(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                names = {name for name, _ in message.get("headers", ())}
                more = [(name, value) for name, value in extra if name not in names]
                message = {**message, "headers": [*message.get("headers", ()), *more]}
            await send(message)

        try:
            await self.app(scope, receive, send_more)
        except Exception:
            if not begun:
                await _FAILED.answer(send_more)
            raise  # for the log


_FAILED = Refusal(
    500,
    "internal_error",
    "the server failed; its log has the reason under this request's id",
    "server_error",
)


@dataclass(frozen=True)
class HeaderGuard:
    """Refuses requests whose address and headers are too long with 431.

    Attributes:
        app: what comes after.
        max_bytes: of the address and all headers together.
    """

    app: ASGIApp
    max_bytes: int

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let it pass, or answer."""
        if scope["type"] == "http" and _head_bytes(scope) > self.max_bytes:
            refusal = Refusal(
                431,
                "headers_too_large",
                f"address and headers are longer than {self.max_bytes} bytes; shorten them",
                headers=((b"connection", b"close"),),
            )
            return await refusal.answer(send)
        await self.app(scope, receive, send)


def _head_bytes(scope: Scope) -> int:
    address = len(scope.get("raw_path") or b"") + len(scope["query_string"])
    return address + sum(len(name) + len(value) + 4 for name, value in scope["headers"])


@dataclass(frozen=True)
class KeyGuard:
    """Refuses requests without a key with 401, where there are keys.

    Attributes:
        app: what comes after.
        keys: those that are let in.
    """

    app: ASGIApp
    keys: Keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let it pass with the owner's name in its state, or answer."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        owner = self.keys.owner(_token(scope)) if self.keys else None
        if self.keys and owner is None and not _is_open(scope):
            return await _NO_KEY.answer(send)
        state_of(scope)["client"] = owner
        await self.app(scope, receive, send)


_NO_KEY = Refusal(
    401,
    "invalid_api_key",
    "there is no API key, or a wrong one; send a header Authorization: Bearer KEY",
    headers=((b"www-authenticate", b'Bearer realm="mtad"'),),
)


def _token(scope: Scope) -> bytes:
    """The key that was sent; empty, which is no key, if there is none or more than one."""
    given = header(scope, b"authorization")
    scheme, _, token = given[0].strip().partition(b" ") if len(given) == 1 else (b"", b"", b"")
    return token.strip() if scheme.lower() == b"bearer" else b""


def _is_open(scope: Scope) -> bool:
    path: str = scope["path"]
    is_known = path in OPEN_PATHS or (path.startswith(OPEN_FOLDERS) and ".." not in path)
    return is_known and scope["method"] in ("GET", "HEAD", "OPTIONS")


@dataclass(frozen=True)
class ConcurrencyGuard:
    """Refuses a client's requests with 429 while too many of its own are at work.

    Without keys all clients count as one.

    Attributes:
        app: what comes after.
        limit: None for none.
    """

    app: ASGIApp
    limit: int | None
    running: Counter[str | None] = field(default_factory=Counter)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count it and let it pass, or answer."""
        if self.limit is None or scope["type"] != "http" or scope["method"] != "POST":
            return await self.app(scope, receive, send)
        client = state_of(scope).get("client")
        if self.running[client] >= self.limit:
            return await self._refusal.answer(send)
        self.running[client] += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.running[client] -= 1

    @property
    def _refusal(self) -> Refusal:
        return Refusal(
            429,
            "too_many_concurrent_requests",
            f"{self.limit} requests of this key are at work, which is the limit; wait for one",
            "rate_limit_error",
            headers=((b"retry-after", b"1"),),
        )

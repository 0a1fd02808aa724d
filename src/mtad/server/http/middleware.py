"""What stands between the network and the routes: request ids, limits, hosts, origins, keys.

Knows no route but those that are open to all.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import MutableMapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mtad.server.http.errors import ApiError, body_too_large
from mtad.server.http.guards import (
    BodyDeadline,
    ConcurrencyGuard,
    Guard,
    check_head,
    check_key,
    check_origin,
)
from mtad.server.http.keys import Keys
from mtad.server.http.same import HeadAsGet, SlashAtTheEnd
from mtad.server.settings import ServerSettings

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
SAFE_HEADERS = {
    # whatever a model writes: the browser runs and fetches only what came with the page
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "object-src 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}
"""Headers of every response that keep browsers careful."""


def protect(app: FastAPI, settings: ServerSettings, keys: Keys) -> None:
    """Put every guard in front of an application's routes.

    Routes find `request_id` and `client` (the name of the key's owner, None without keys) in the
    request's state.

    Args:
        app: before its first request.
        settings: limits, and where the server listens.
        keys: that open it.
    """
    app.add_middleware(HeadAsGet)
    app.add_middleware(BodyDeadline, settings.body_timeout_s)
    app.add_middleware(RequestBodyLimitMiddleware, max_body_size=settings.max_body_bytes)
    app.add_middleware(ConcurrencyGuard, settings.max_concurrent_per_key)
    app.add_middleware(Guard, partial(check_key, keys))
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=["X-Request-Id", "Retry-After"],
        )
    app.add_middleware(Guard, partial(check_origin, settings.cors_origins))
    hosts = _hosts(settings)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)
    app.add_middleware(Guard, partial(check_head, settings.max_header_bytes))
    app.add_middleware(ErrorShape, settings.max_body_bytes)
    app.add_middleware(SlashAtTheEnd)
    app.add_middleware(Identity)


def _hosts(settings: ServerSettings) -> list[str]:
    """The host names that a request may give: this machine's own where only it can connect.

    Otherwise a web page whose name is bound to 127.0.0.1 could use the server (DNS rebinding).
    """
    is_open = settings.uds is not None or not settings.is_local  # no page can open a Unix socket
    if is_open and not settings.allowed_hosts:
        return ["*"]
    names = (*settings.allowed_hosts, settings.host)
    literal = [f"[{name}]" if ":" in name and name[0] != "[" else name for name in names]
    return [*literal, "localhost", "127.0.0.1", "[::1]"]


def state_of(scope: Scope) -> MutableMapping[str, Any]:
    """What is known about a request, for the layers further in."""
    state: MutableMapping[str, Any] = scope.setdefault("state", {})
    return state


def request_id_of(scope: Scope) -> str:
    """The client's id of a request if it is a valid one, else a new one."""
    state = state_of(scope)
    if "request_id" not in state:
        given = Headers(scope=scope).getlist("x-request-id")
        is_valid = len(given) == 1 and _REQUEST_ID.fullmatch(given[0])
        state["request_id"] = given[0] if is_valid else new_request_id()
    return str(state["request_id"])


class NotingSend:
    """Passes messages on, and notes the status of the response.

    Args:
        send: the next one.

    Attributes:
        status: 0 before the response begins.
    """

    def __init__(self, send: Send) -> None:
        self._send, self.status = send, 0

    async def __call__(self, message: Message) -> None:
        """Pass a message on."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)


def new_request_id() -> str:
    """An id that no other request has."""
    return f"req-{secrets.token_hex(12)}"


@dataclass(frozen=True)
class Identity:
    """Gives every response the request's id and the safe headers; the outermost layer.

    Attributes:
        app: the next ASGI application.
    """

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; answer 500 if it failed before its response began."""
        if scope["type"] == "websocket":
            return await send({"type": "websocket.close", "code": 1008})
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        extra = {"X-Request-Id": request_id_of(scope), **SAFE_HEADERS}
        has_begun = False

        async def send_more(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                headers = MutableHeaders(scope=message)
                for name, value in extra.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self.app(scope, receive, send_more)
        except Exception:
            if not has_begun:
                await _failed().response()(scope, receive, send_more)
            raise  # for the log


def _failed() -> ApiError:
    message = "the server failed; its log has the reason under this request's id"
    return ApiError(500, message, code="internal_error")


@dataclass(frozen=True)
class ErrorShape:
    """Gives the errors of starlette's middleware, which are plain text, OpenAI's shape.

    Attributes:
        app: the next ASGI application.
        max_body_bytes: for the message.
    """

    app: ASGIApp
    max_body_bytes: int

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; replace a plain error by its shape."""
        start: Message | None = None

        async def send_shaped(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start" and _is_plain_error(message):
                start = message
            elif start is None:
                await send(message)
            elif message["type"] == "http.response.body":
                error = self._error(start["status"], bytes(message.get("body", b"")))
                await error.response()(scope, receive, send)

        await self.app(scope, receive, send_shaped)

    def _error(self, status: int, text: bytes) -> ApiError:
        if text == b"Invalid host header":
            return ApiError(
                403,
                "the Host header names no host of this server; the operator can add one with "
                "--allowed-host",
                code="unknown_host",
                kind="permission_error",
            )
        if status == 413:
            return body_too_large(self.max_body_bytes)
        return ApiError(status, text.decode(errors="replace"))


def _is_plain_error(start: Message) -> bool:
    kind = Headers(scope=start).get("content-type", "")
    return int(start["status"]) >= 400 and kind.startswith("text/plain")

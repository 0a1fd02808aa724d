"""Middleware that refuses requests: no key, a foreign web page, too many at once, a slow body.

Plain ASGI, so that streams pass through untouched. Hosts, CORS and the size of bodies are checked
by starlette's own middleware; see `mtad.server.http.middleware.protect`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mtad.server.http.errors import ApiError
from mtad.server.http.keys import Keys
from mtad.server.http.same import path_of

OPEN_PATHS = ("/", "/version", "/health", "/favicon.ico")
OPEN_FOLDERS = ("/health/", "/page/")
"""Readable without a key: the page, which has a field for one, and the health checks."""
_READING = ("GET", "HEAD", "OPTIONS")
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


@dataclass(frozen=True)
class Guard:
    """Answers requests that its check refuses; the others pass.

    Attributes:
        app: the next ASGI application.
        check: the error that refuses a request, if any.
    """

    app: ASGIApp
    check: Callable[[Scope], ApiError | None]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        error = self.check(scope) if scope["type"] == "http" else None
        await (error.response() if error else self.app)(scope, receive, send)


def check_key(keys: Keys, scope: Scope) -> ApiError | None:
    """401 without a valid key, where there are keys; notes the key's owner in the state."""
    owner = keys.owner(_token(scope)) if keys else None
    if keys and owner is None and not _is_open(scope):
        return _no_key()
    scope.setdefault("state", {})["client"] = owner
    return None


def _no_key() -> ApiError:
    message = "there is no API key, or a wrong one; send a header Authorization: Bearer KEY"
    headers = {"WWW-Authenticate": 'Bearer realm="mtad"'}
    return ApiError(401, message, code="invalid_api_key", headers=headers)


def _token(scope: Scope) -> bytes:
    """The key in the request; empty, which is no key, if there is none or more than one."""
    given = [value for name, value in scope["headers"] if name == b"authorization"]
    scheme, _, token = given[0].strip().partition(b" ") if len(given) == 1 else (b"", b"", b"")
    return token.strip() if scheme.lower() == b"bearer" else b""


def _is_open(scope: Scope) -> bool:
    path = path_of(scope)
    is_known = path in OPEN_PATHS or (path.startswith(OPEN_FOLDERS) and ".." not in path)
    return is_known and scope["method"] in _READING


def check_origin(origins: Collection[str], scope: Scope) -> ApiError | None:
    """403 for web pages that send more than a read, unless they are our own or in `origins`.

    A page of another site, open in a browser, can send requests to a server on the same machine.
    CORS keeps it from reading the answers; this keeps it from asking at all.
    """
    headers = Headers(scope=scope)
    host = headers.get("host", "")
    asking = headers.getlist("origin") if scope["method"] not in _READING else []
    if all(origin in origins or _is_same(origin, host) for origin in asking):
        return None
    return ApiError(
        403,
        "web pages of this origin may not use the server; the operator can allow them with "
        "--cors-origin",
        code="foreign_origin",
        kind="permission_error",
    )


def _is_same(origin: str, host: str) -> bool:
    """Whether a page of `origin` was loaded from `host`; default ports may be written or not."""
    scheme, _, place = origin.lower().partition("://")
    port = _DEFAULT_PORTS.get(scheme)
    return port is not None and place.removesuffix(port) == host.lower().removesuffix(port)


def check_head(max_bytes: int, scope: Scope) -> ApiError | None:
    """431 where address and headers together are longer than `max_bytes`."""
    address = len(scope.get("raw_path") or b"") + len(scope["query_string"])
    headers = sum(len(name) + len(value) + 4 for name, value in scope["headers"])
    if address + headers <= max_bytes:
        return None
    message = f"address and headers are longer than {max_bytes} bytes; shorten them"
    return ApiError(431, message, code="headers_too_large")


@dataclass(frozen=True)
class ConcurrencyGuard:
    """Answers 429 to a client's requests while too many of its own are in progress.

    Without keys all clients count as one.

    Attributes:
        app: the next ASGI application.
        limit: requests at a time; None for no limit.
    """

    app: ASGIApp
    limit: int | None
    running: Counter[str | None] = field(default_factory=Counter)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count the request and pass it on, or refuse it."""
        if self.limit is None or scope["type"] != "http" or scope["method"] != "POST":
            return await self.app(scope, receive, send)
        client = scope["state"].get("client")
        if self.running[client] >= self.limit:
            return await self._too_many().response()(scope, receive, send)
        self.running[client] += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.running[client] -= 1

    def _too_many(self) -> ApiError:
        return ApiError(
            429,
            f"{self.limit} requests of this key are in progress, which is the limit; wait for one",
            code="too_many_concurrent_requests",
            kind="rate_limit_error",
            headers={"Retry-After": "1"},
        )


@dataclass(frozen=True)
class BodyDeadline:
    """Ends requests whose body does not arrive in time with 408.

    Attributes:
        app: the next ASGI application.
        timeout_s: seconds from the headers to the end of the body.
    """

    app: ASGIApp
    timeout_s: float

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; the route's reading of the body raises once it is late."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        deadline = asyncio.get_running_loop().time() + self.timeout_s
        has_more = True

        async def receive_in_time() -> Message:
            nonlocal has_more
            if not has_more:
                return await receive()  # waits for the client to leave, which is no part of a body
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise self._too_slow() from None
            has_more = message.get("more_body", False)
            return message

        await self.app(scope, receive_in_time, send)

    def _too_slow(self) -> HTTPException:
        message = f"the body did not arrive within {self.timeout_s:g} s; send it faster"
        return HTTPException(408, message, {"Connection": "close"})

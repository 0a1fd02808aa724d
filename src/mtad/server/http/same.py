"""Requests that mean the same: `HEAD` as `GET`, and a path with a slash at its end.

Knows no route.
"""

from __future__ import annotations

from dataclasses import dataclass

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send


def path_of(scope: Scope) -> str:
    """The path below the prefix of a proxy, or of an application that this one is mounted in."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path.removeprefix(root) if path.startswith(f"{root}/") else path


@dataclass(frozen=True)
class SlashAtTheEnd:
    """Passes a path with a slash at its end on without it, as clients join addresses either way.

    Attributes:
        app: the next ASGI application.
    """

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] == "http" and path_of(scope) != "/":
            scope["path"] = scope["path"].removesuffix("/")
        await self.app(scope, receive, send)


@dataclass(frozen=True)
class HeadAsGet:
    """Answers `HEAD` as `GET`, without the content (RFC 9110, 9.3.2).

    Attributes:
        app: the next ASGI application.
    """

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; wherever `GET` is allowed so is `HEAD`."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        is_head = scope["method"] == "HEAD"

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 405:
                _allow_head(MutableHeaders(scope=message))
            if message["type"] == "http.response.body" and is_head:
                message = {**message, "body": b""}
            await send(message)

        inner = {**scope, "method": "GET"} if is_head else scope
        try:
            await self.app(inner, receive, send_head)
        finally:
            scope.update(route=inner.get("route"))  # for the log


def _allow_head(headers: MutableHeaders) -> None:
    methods = [name.strip() for name in headers.get("allow", "").split(",")]
    if "GET" in methods and "HEAD" not in methods:
        headers["Allow"] = ", ".join([*methods, "HEAD"])

"""Bodies of requests: read whole before any route sees them, within a size and a time.

Knows no JSON.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mtad.server.http.refusal import Refusal, header

PATIENCE = 16
"""A body that is too long is read, and dropped, up to this many times the limit: a client that is
still sending would otherwise see a broken connection instead of the answer."""


@dataclass(frozen=True)
class BodyGuard:
    """Refuses bodies that are too long with 413 and those that are too slow with 408.

    Attributes:
        app: what comes after.
        max_bytes: longest body.
        timeout_s: seconds in which it has to be there.
    """

    app: ASGIApp
    max_bytes: int
    timeout_s: float

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body and hand it on, or answer."""
        if scope["type"] != "http" or not _has_body(scope):
            return await self.app(scope, receive, send)
        announced = max(map(int, header(scope, b"content-length")), default=0)
        if announced > self.max_bytes and header(scope, b"expect"):
            return await self._too_long.answer(send)  # the client waits for leave to send it
        try:
            async with asyncio.timeout(self.timeout_s):
                body = await self._read(receive)
        except TimeoutError:
            return await self._too_slow.answer(send)
        if body is None:
            return None
        if len(body) > self.max_bytes:
            return await self._too_long.answer(send)
        await self.app(scope, _again(body, receive), send)

    async def _read(self, receive: Receive) -> bytes | None:
        """The body, or more bytes than are allowed if it is too long; None if the client left."""
        parts, size, more = list[bytes](), 0, True
        while more and size <= PATIENCE * self.max_bytes:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            part = message.get("body", b"")
            size += len(part)
            if size - len(part) <= self.max_bytes:
                parts.append(part)
            more = message.get("more_body", False)
        return b"".join(parts)

    @property
    def _too_long(self) -> Refusal:
        return Refusal(
            413,
            "body_too_large",
            f"the body is longer than {self.max_bytes} bytes; shorten it",
            headers=_CLOSE,
        )

    @property
    def _too_slow(self) -> Refusal:
        return Refusal(
            408,
            "body_too_slow",
            f"the body was not there within {self.timeout_s:g} s; send it faster",
            headers=_CLOSE,
        )


_CLOSE = ((b"connection", b"close"),)


def _has_body(scope: Scope) -> bool:
    lengths = header(scope, b"content-length")
    return bool(header(scope, b"transfer-encoding")) or any(length != b"0" for length in lengths)


def _again(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body at once, and after it what comes then."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return waiting.pop() if waiting else await receive()

    return receive_again

"""HTTP/1.1 connections of uvicorn that do not wait forever, and that refuse in OpenAI's shape.

Knows no route.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from mtad.server.refusal import Refusal


class Connection(H11Protocol):
    """A connection that is closed when the head of a request takes too long.

    Class attributes:
        head_timeout_s: seconds from the first byte, or the opening, to the end of the headers.
    """

    head_timeout_s: float = 10.0
    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Take data; wait on while the head of a request is not whole."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._wait_no_more()
        elif self._waiting is None:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._wait_no_more()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, or has too long a head, and close."""
        error = sys.exc_info()[1]
        too_long = getattr(error, "error_status_hint", 400) == 431
        refusal = _TOO_LONG if too_long else _NO_HTTP
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            own = [(b"content-type", b"application/json"), (b"connection", b"close")]
            for event in (
                h11.Response(status_code=refusal.status, headers=own, reason=refusal.code.encode()),
                h11.Data(data=refusal.body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _wait(self) -> None:
        self._waiting = self.loop.call_later(self.head_timeout_s, self._give_up)

    def _wait_no_more(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _give_up(self) -> None:
        if self.conn.their_state is h11.IDLE:
            self.transport.close()


_NO_HTTP = Refusal(400, "invalid_http", "this is no HTTP/1.1 request; send one")
_TOO_LONG = Refusal(431, "headers_too_large", "address and headers are too long; shorten them")


def connection_class(timeout_s: float) -> type[Connection]:
    """The class of connections that wait `timeout_s` seconds for the head of a request."""
    return type("Connection", (Connection,), {"head_timeout_s": timeout_s})

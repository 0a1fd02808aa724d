"""HTTP/1.1 connections of uvicorn that wait for no client forever, and refuse in OpenAI's shape.

Knows no route.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from mtad.server.http.refusal import Refusal


class Connection(H11Protocol):
    """A connection that is closed when its client takes too long.

    Class attributes:
        head_timeout_s: seconds from the first byte, or the opening, to the end of the headers; also
            for the rest of a body whose request is answered already.
        stall_timeout_s: seconds in which the client takes something of an answer that waits for it.
    """

    head_timeout_s: float = 10.0
    stall_timeout_s: float = 60.0
    _waiting: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for a request."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # whatever is not taken at once is waited for
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Take data; wait on while the head of a request is not whole."""
        super().data_received(data)
        if not self._is_owed:
            self._wait_no_more()
        elif self._waiting is None:
            self._wait()

    def on_response_complete(self) -> None:
        """Go on with the next request; the rest of a body that nobody reads is waited for."""
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY and self._waiting is None:
            self._wait()

    def pause_writing(self) -> None:
        """The client does not take what is written; wait for it, but not forever."""
        super().pause_writing()
        self._hope()

    def resume_writing(self) -> None:
        """The client has taken all."""
        super().resume_writing()
        self._hope_no_more()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._wait_no_more()
        self._hope_no_more()
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

    @property
    def _is_owed(self) -> bool:
        """Whether there is nothing to do before the client has sent something."""
        theirs, ours = self.conn.their_state, self.conn.our_state
        return theirs is h11.IDLE or (theirs is h11.SEND_BODY and ours is h11.DONE)

    def _hope(self, unsent: int | None = None) -> None:
        """Go on as long as the client takes something of what is still to be sent."""
        left = self.transport.get_write_buffer_size()
        if unsent is None or left < unsent:
            self._stalled = self.loop.call_later(self.stall_timeout_s, self._hope, left)
        else:
            self.transport.abort()

    def _hope_no_more(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _wait(self) -> None:
        self._waiting = self.loop.call_later(self.head_timeout_s, self._give_up)

    def _wait_no_more(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _give_up(self) -> None:
        self._waiting = None
        if self._is_owed:
            self.transport.close()


_NO_HTTP = Refusal(400, "invalid_http", "this is no HTTP/1.1 request; send one")
_TOO_LONG = Refusal(431, "headers_too_large", "address and headers are too long; shorten them")


def connection_class(timeout_s: float) -> type[Connection]:
    """The class of connections that wait `timeout_s` seconds for the head of a request."""
    return type("Connection", (Connection,), {"head_timeout_s": timeout_s})

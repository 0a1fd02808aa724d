"""One connection: how its requests are framed, and how long its client may take.

uvicorn's protocol, with what RFC 9112 asks of a server and h11 leaves to it, and with time limits
that hold in total: no byte that a client sends makes them longer. Knows no route.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any, Literal, TypeAlias

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from mtad.server.http.errors import ApiError

KEEP_ALIVE_S = 30
"""Seconds that a connection without a request stays open."""
SEND_S = 60.0
"""Seconds in which a client must take some of what was sent to it."""

_Event: TypeAlias = "h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]"
_Part: TypeAlias = Literal["head", "rest"]


class _Requests(h11.Connection):
    """h11's connection of a server, which refuses requests that may be framed in two ways.

    A proxy and a server that see different requests in the same bytes let one client speak for
    another (request smuggling).

    Attributes:
        fault: why the client is not understood, once that is so.
    """

    fault: h11.RemoteProtocolError | None = None

    def next_event(self) -> _Event:
        """The next event.

        Raises:
            h11.RemoteProtocolError: the bytes are no HTTP/1.1, or ambiguous.
        """
        try:
            event = super().next_event()
            if isinstance(event, h11.Request):
                _check_framing(event)
        except h11.RemoteProtocolError as error:
            self.fault = error
            raise
        return event


class _FramingError(h11.RemoteProtocolError):
    """A request whose end is ambiguous."""


def _check_framing(request: h11.Request) -> None:
    """Refuse what RFC 9112, 6.1 calls faulty and h11 reads as chunked all the same."""
    names = {name for name, _ in request.headers}
    if b"transfer-encoding" not in names:
        return
    if b"content-length" in names:
        raise _FramingError("it has both Content-Length and Transfer-Encoding; send one of them")
    if request.http_version < b"1.1":
        raise _FramingError("HTTP/1.0 has no Transfer-Encoding; send Content-Length")


class Connection(H11Protocol):
    """A client's connection.

    Attributes:
        head_s: seconds for address and headers, from the opening or from their first byte.
        rest_s: seconds for what is left of a body when its request has been answered.
        send_s: as `SEND_S`.
    """

    head_s = 10.0
    rest_s = 10.0
    send_s = SEND_S
    conn: _Requests

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        limit = self.config.h11_max_incomplete_event_size
        self.conn = _Requests(h11.SERVER, *(() if limit is None else (limit,)))
        self._awaited: _Part | None = None
        self._late: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request, not for ever."""
        super().connection_made(transport)
        self._await("head")

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._await(None)
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what came, and limit the time for what it leaves open."""
        super().data_received(data)
        self._await(self._part() or ("head" if self.conn.their_state is h11.IDLE else None))

    def on_response_complete(self) -> None:
        """Go on with the next request, or close."""
        super().on_response_complete()
        if self.transport.is_closing():
            return self._abort_later()
        has_begun = self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]
        self._await("head" if has_begun else self._part())

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection without a request."""
        super().timeout_keep_alive_handler()
        self._abort_later()

    def pause_writing(self) -> None:
        """Wait for the client to take what was sent, not for ever."""
        super().pause_writing()
        self._stalled = self.loop.call_later(self.send_s, self.transport.abort)

    def resume_writing(self) -> None:
        """Send on: the client takes it."""
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not understood, and close."""
        fault = self.conn.fault
        if fault is not None and fault.error_status_hint == 431:
            error = ApiError(431, "address and headers are too long", code="headers_too_large")
        else:
            reason = f": {fault}" if isinstance(fault, _FramingError) else "; see RFC 9112"
            error = ApiError(400, f"the request is no valid HTTP/1.1{reason}", code="invalid_http")
        self._refuse(error)

    def _part(self) -> _Part | None:
        """The end of a body whose request has been answered, if that is awaited."""
        is_answered = self.cycle is not None and self.cycle.response_complete
        return "rest" if is_answered and self.conn.their_state is h11.SEND_BODY else None

    def _await(self, part: _Part | None) -> None:
        """Close in time unless that part comes; the time runs on while the same part is awaited."""
        if part == self._awaited:
            return
        self._awaited = part
        if self._late is not None:
            self._late.cancel()
        if part is not None:
            seconds = self.head_s if part == "head" else self.rest_s
            self._late = self.loop.call_later(seconds, self._be_late)

    def _be_late(self) -> None:
        if self.transport.is_closing():
            return
        if self._awaited == "head" and self.conn.trailing_data[0]:
            message = f"the headers did not arrive within {self.head_s:g} s; send them faster"
            return self._refuse(ApiError(408, message, code="headers_too_slow"))
        self.transport.close()
        self._abort_later()

    def _refuse(self, error: ApiError) -> None:
        """Answer in the application's stead if nothing was answered yet, and close."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            response = error.response()
            headers = [*response.raw_headers, (b"connection", b"close")]
            reason = HTTPStatus(error.status).phrase.encode()
            for event in (
                h11.Response(status_code=error.status, headers=headers, reason=reason),
                h11.Data(data=bytes(response.body)),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
        self._abort_later()

    def _abort_later(self) -> None:
        """Let go of a closed connection even if its client does not take the rest."""
        if self.transport.get_write_buffer_size():
            self.loop.call_later(self.send_s, self.transport.abort)


def connection(head_s: float, rest_s: float) -> type[Connection]:
    """The protocol with these limits."""
    return type("Connection", (Connection,), {"head_s": head_s, "rest_s": rest_s})

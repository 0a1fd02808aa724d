"""How requests are framed on a connection (RFC 9112), and how long a client may keep it."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator

import pytest
from support.serving import wait_for
from support.site import Listening, everything, listening, site

from mtad.server.http.connection import Connection

ECHO = b"POST /v1/echo HTTP/1.1\r\nHost: localhost\r\n"
NEXT = b"GET /version HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
CHUNKS = b"1\r\nz\r\n0\r\n\r\n"


@pytest.fixture(scope="module")
def place() -> Iterator[Listening]:
    with listening(site(body_timeout_s=0.5, header_timeout_s=0.5)) as found:
        yield found


def answers(data: bytes) -> list[int]:
    """The status of each answer."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", data)]


FAULTY = {
    "length and chunks": (b"Content-Length: 11\r\nTransfer-Encoding: chunked", CHUNKS),
    "chunks and length": (b"Transfer-Encoding: chunked\r\nContent-Length: 11", CHUNKS),
    "a length of nothing": (b"Content-Length: 0\r\nTransfer-Encoding: chunked", CHUNKS),
    "in other letters": (b"content-length: 4\r\nTRANSFER-ENCODING: Chunked", CHUNKS),
    "folded": (b"Content-Length: 4\r\nTransfer-Encoding:\r\n chunked", CHUNKS),
    "two lengths": (b"Content-Length: 1\r\nContent-Length: 2", b"zz"),
    "two lengths in one": (b"Content-Length: 1, 2", b"zz"),
    "no number": (b"Content-Length: 0x1", b"z"),
    "a sign": (b"Content-Length: +1", b"z"),
    "no length": (b"Content-Length:", b""),
    "compressed after chunked": (b"Transfer-Encoding: chunked, gzip", CHUNKS),
    "compressed": (b"Transfer-Encoding: gzip", b"z"),
    "compressed and chunked": (b"Transfer-Encoding: gzip, chunked", CHUNKS),
    "twice chunked": (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", CHUNKS),
    "as it is": (b"Transfer-Encoding: identity", b""),
    "a space before the colon": (b"Transfer-Encoding : chunked", CHUNKS),
    "no coding": (b"Transfer-Encoding:", b""),
}


@pytest.mark.parametrize("headers, body", FAULTY.values(), ids=FAULTY)
def test_a_request_that_may_end_in_two_places_is_refused_and_nothing_after_it_served(
    place: Listening, headers: bytes, body: bytes
) -> None:
    answer = place.raw(ECHO + headers + b"\r\n\r\n" + body + NEXT)
    assert answers(answer) == [400]
    head, _, content = answer.partition(b"\r\n\r\n")
    assert b"connection: close" in head.lower()
    assert json.loads(content)["error"]["code"] == "invalid_http"


@pytest.mark.parametrize("length", [b"", b"Content-Length: 1\r\n"], ids=["alone", "and length"])
def test_chunks_of_http_1_0_are_refused(place: Listening, length: bytes) -> None:
    head = b"POST /v1/echo HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n"
    answer = place.raw(head + length + b"\r\n" + CHUNKS + NEXT)
    assert answers(answer) == [400]
    assert b"invalid_http" in answer


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (b"Content-Length: 1", b"z"),
        (b"Content-Length: 1\r\nContent-Length: 1", b"z"),
        (b"Transfer-Encoding: chunked", CHUNKS),
        (b"Transfer-Encoding: CHUNKED", b"1;ext=1\r\nz\r\n0\r\nTrailer: x\r\n\r\n"),
    ],
    ids=["length", "the same length twice", "chunks", "chunks with more"],
)
def test_a_request_that_ends_in_one_place_is_served_and_so_is_the_next(
    place: Listening, headers: bytes, body: bytes
) -> None:
    answer = place.raw(ECHO + headers + b"\r\n\r\n" + body + NEXT)
    assert answers(answer) == [200, 200]
    assert b'"length":1' in answer


@pytest.mark.parametrize("chunks", [b"x\r\n", b"1\r\nzz\r\n", b"-1\r\nz\r\n", b"1 \n\nz"])
def test_damaged_chunks_end_the_request_and_the_connection(
    place: Listening, chunks: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    answer = place.raw(ECHO + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + NEXT)
    assert answers(answer) == [400]
    assert {record.getMessage() for record in caplog.records} == {"Invalid HTTP request received."}


def drip(sock: socket.socket, data: bytes, seconds: float) -> float:
    """Send a byte now and then until the server has closed; how long it took."""
    begun = time.monotonic()
    sock.settimeout(seconds)
    for at in range(len(data)):
        try:
            sock.sendall(data[at : at + 1])
            if not sock.recv(65536):
                break
        except TimeoutError:
            continue
        except OSError:
            break
    return time.monotonic() - begun


@pytest.mark.slow
def test_headers_have_a_time_in_total(place: Listening) -> None:
    with place.connected() as sock:
        assert drip(sock, b"GET /version HTTP/1.1\r\nX: " + b"x" * 400, 0.05) < 10
    with place.connected() as sock:
        sock.sendall(b"GET /version HTTP/1.1\r\n")
        answer = everything(sock)
    assert answers(answer) == [408] and b"headers_too_slow" in answer


@pytest.mark.slow
def test_a_connection_that_asks_for_nothing_is_closed(place: Listening) -> None:
    assert place.raw(b"") == b""


@pytest.mark.slow
def test_a_second_request_has_the_same_time(place: Listening) -> None:
    with place.connected() as sock:
        sock.sendall(b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\nGET /vers")
        assert answers(everything(sock)) == [200, 408]


@pytest.mark.slow
def test_a_body_has_a_time_in_total(place: Listening) -> None:
    with place.connected() as sock:
        sock.sendall(ECHO + b"Content-Length: 400\r\n\r\n")
        assert drip(sock, b"x" * 399, 0.05) < 10


@pytest.mark.slow
def test_the_rest_of_a_body_that_was_refused_has_one_too(place: Listening) -> None:
    with place.connected() as sock:
        sock.sendall(b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 400\r\n\r\n")
        assert sock.recv(65536).startswith(b"HTTP/1.1 404")
        assert drip(sock, b"x" * 399, 0.05) < 10


@pytest.mark.slow
def test_a_client_that_takes_nothing_loses_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection, "send_s", 0.3)
    found = site()
    with listening(found) as place, place.connected() as sock:
        sock.sendall(b"POST /v1/flood HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        wait_for(lambda: found.gate.has_left)

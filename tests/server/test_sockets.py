"""What only a real socket shows: slow and rude clients, what is no HTTP, streams, paths as sent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from support.serving import wait_for
from support.site import KEYS, Listening, error, listening, site

ANN = {"Authorization": "Bearer right-key-1"}
BOB = "Authorization: Bearer schlüssel-2\r\n".encode()
KEY = b"Authorization: Bearer right-key-1\r\n"


@pytest.fixture(scope="module")
def place() -> Iterator[Listening]:
    limits = {"max_concurrent_per_key": 1, "max_body_bytes": 1000, "body_timeout_s": 0.3}
    with listening(site(KEYS, **limits)) as found:
        yield found


@pytest.mark.parametrize(
    "path",
    [
        "/health/../v1/models",
        "/page/../v1/models",
        "/page/%2e%2e/v1/models",
        "//v1/models",
        "/v1/models/",
        "/HEALTH",
        "/healthy",
        "/page/..%2fv1%2fmodels",
    ],
)
def test_no_path_leads_around_the_keys(place: Listening, path: str) -> None:
    head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
    assert place.raw(head).startswith(b"HTTP/1.1 401")


@contextmanager
def streaming(place: Listening) -> Iterator[Iterator[str]]:
    """The pieces of a stream after its first, which has arrived."""
    with (
        httpx.Client(base_url=place.url, trust_env=False, timeout=30, headers=ANN) as client,
        client.stream("POST", "/v1/stream", content=b"{}") as answer,
    ):
        pieces = answer.iter_text()
        assert next(pieces) == "one"
        yield pieces


def test_streams_pass_through_piece_by_piece(place: Listening) -> None:
    place.site.gate.is_open = False
    with streaming(place) as pieces:
        place.site.gate.is_open = True
        assert list(pieces) == ["two"]


def test_a_client_that_leaves_gives_its_place_back(place: Listening) -> None:
    place.site.gate.is_open = False
    with place.connected() as sock:
        sock.sendall(b"POST /v1/stream HTTP/1.1\r\nHost: localhost\r\n" + KEY + b"\r\n")
        assert b"200" in sock.recv(1000)
        assert error(place.ask("POST", "/v1/echo", headers=ANN), 429)
    wait_for(lambda: place.ask("POST", "/v1/echo", headers=ANN).status_code == 200)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_client_that_sends_too_much_can_read_why_and_go_on(
    place: Listening, chunked: bool
) -> None:
    body = b"x" * 3_000_000
    with httpx.Client(base_url=place.url, trust_env=False, timeout=30, headers=ANN) as client:
        content = iter([body[:500], body[500:]]) if chunked else body
        assert error(client.post("/v1/echo", content=content), 413)["code"] == "body_too_large"
        assert client.post("/v1/echo", content=b"z").json()["length"] == 1


def test_a_body_that_is_announced_as_too_long_is_not_asked_for(place: Listening) -> None:
    head = b"POST /v1/echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000000\r\n"
    answer = b""
    with place.connected() as sock:
        sock.sendall(head + KEY + b"Expect: 100-continue\r\n\r\n")
        while b"}}" not in answer and (part := sock.recv(4096)):
            answer += part
    assert answer.startswith(b"HTTP/1.1 413") and b"body_too_large" in answer


def test_a_slow_body_is_not_waited_for(place: Listening) -> None:
    head = b"POST /v1/echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n"
    answer = place.raw(head + KEY + b"\r\nabc")
    assert answer.startswith(b"HTTP/1.1 408") and b"body_too_slow" in answer
    assert b"connection: close" in answer.lower()


@pytest.mark.slow
def test_an_answer_may_take_longer_than_the_body(place: Listening) -> None:
    place.site.gate.is_open = False
    with streaming(place) as pieces:
        late = b"POST /v1/echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n" + BOB
        assert place.raw(late + b"\r\n").startswith(b"HTTP/1.1 408"), "so long it takes"
        place.site.gate.is_open = True
        assert list(pieces) == ["two"]


def test_a_client_that_leaves_within_its_body_is_no_error(
    place: Listening, caplog: pytest.LogCaptureFixture
) -> None:
    with place.connected() as sock:
        head = b"POST /v1/echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n"
        sock.sendall(head + KEY + b"X-Request-Id: leaver\r\n\r\na")

    def logged() -> list[Any]:
        """Its line alone: an earlier request's may be written after its client has read all."""
        lines = map(json.loads, place.site.lines)
        return [line for line in lines if line["request_id"] == "leaver"]

    wait_for(logged)
    assert [line["status"] for line in logged()] == [499]
    assert not caplog.records


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /version HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 20_000, 431),
        (b"GET /version HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 4000 + b"Z: z", 431),
        (b"GET /version?" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: localhost", 431),
        (b"GET /version HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 1_000_000, 431),
    ],
)
def test_heads_that_are_too_long(place: Listening, head: bytes, status: int) -> None:
    """Beyond what is buffered the connection refuses it, before any middleware, and may close."""
    answer = place.raw(head + b"\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 %d" % status) or (len(head) > 65_536 and answer == b"")
    assert answer == b"" or b'"code": "headers_too_large"' in answer
    assert place.ask("GET", "/version").status_code == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"hello\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"POST /v1/echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
        b"POST /v1/echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
    ],
)
def test_what_is_no_http(place: Listening, sent: bytes) -> None:
    assert place.raw(sent).startswith(b"HTTP/1.1 400")

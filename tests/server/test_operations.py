"""What stands in front of the routes, on real sockets: keys, limits, origins, logs, signals."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from starlette.responses import StreamingResponse
from support.command import MAIN, refused
from support.serving import serving, wait_for

import mtad
from mtad.engine.session import Block
from mtad.engine.session import Request as Text
from mtad.server.http.connection import Connection
from mtad.server.http.keys import Keys
from mtad.server.http.middleware import protect
from mtad.server.ops import run
from mtad.server.ops.logs import Journal, Log, RequestLog, _Handler, catch_records
from mtad.server.ops.metrics import Metrics
from mtad.server.scheduler.jobs import Job, Work
from mtad.server.settings import ServerSettings

KEYS = Keys({b"right-key-1": "ann", "schlüssel-2".encode(): "bob"})
SECRET = "xyzzy-secret-prompt"


class Site:
    """A small application behind all guards, on a port."""

    def __init__(self, url: str, gate: threading.Event, lines: list[str], journal: Journal) -> None:
        self.url, self.gate, self.lines, self.journal = url, gate, lines, journal
        self.port = int(url.rpartition(":")[2])

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        # there is no TLS here: verify=False saves the reading of certificates
        with httpx.Client(base_url=self.url, trust_env=False, timeout=30, verify=False) as client:
            return client.request(method, path, **options)

    def raw(self, data: bytes) -> bytes:
        """What comes back until the server closes the connection."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as sock:
            sock.sendall(data)
            return everything(sock)


def everything(sock: socket.socket) -> bytes:
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := sock.recv(65536):
            parts.append(part)
    return b"".join(parts)


def routes(gate: threading.Event) -> FastAPI:
    app = FastAPI(docs_url=None, redoc_url=None)

    @app.get("/health")
    @app.get("/health/ready")
    @app.get("/version")
    @app.get("/")
    @app.get("/page/main.js")
    @app.get("/metrics")
    @app.get("/v1/models")
    def fine(request: Request) -> dict[str, Any]:
        return {"id": request.state.request_id, "client": request.state.client}

    @app.post("/v1/echo")
    async def echo(request: Request) -> dict[str, Any]:
        body = await request.body()
        return {"length": len(body), "client": request.state.client}

    @app.post("/v1/wait")
    async def wait() -> dict[str, Any]:
        await asyncio.to_thread(gate.wait, 20)
        return {}

    @app.post("/v1/stream")
    async def stream() -> StreamingResponse:
        async def parts() -> Any:
            yield "one"
            await asyncio.to_thread(gate.wait, 20)
            yield "two"

        return StreamingResponse(parts())

    @app.post("/v1/endless")
    async def endless() -> StreamingResponse:
        async def parts() -> Any:
            while True:
                yield "x" * 50_000_000
                await asyncio.sleep(0)  # so that it can be ended

        return StreamingResponse(parts())

    @app.post("/v1/fail")
    async def fail(request: Request) -> None:
        raise RuntimeError((await request.body()).decode())

    return app


@contextlib.contextmanager
def site(keys: Keys | None = None, **settings: Any) -> Iterator[Site]:
    gate, lines = threading.Event(), list[str]()
    chosen = ServerSettings(**settings)
    app = routes(gate)
    protect(app, chosen, keys or Keys())
    journal = Journal()
    logged = RequestLog(app, journal, Log("json", lines.append), Metrics())
    with serving(logged, NOBODY, chosen) as served:
        try:
            yield Site(served.url, gate, lines, journal)
        finally:
            gate.set()


class Nobody:
    """Stands where a scheduler would."""

    pair: Any = None
    submit: Any = None
    cancel: Any = None
    load: Any = None


NOBODY: Any = Nobody()


@pytest.fixture(scope="module")
def plain() -> Iterator[Site]:
    with site() as found:
        yield found


@pytest.fixture(scope="module")
def locked() -> Iterator[Site]:
    with site(KEYS, max_concurrent_per_key=2) as found:
        yield found


def error(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The error of an answer, whose shape is OpenAI's."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    return dict(body["error"])


# ---- keys


@pytest.mark.parametrize("path", ["/", "/health", "/health/ready", "/version", "/page/main.js"])
def test_the_page_and_the_health_need_no_key(locked: Site, path: str) -> None:
    assert locked.ask("GET", path).json()["client"] is None


@pytest.mark.parametrize(
    "path", ["/metrics", "/v1/models", "/v1/none", "/tokenize", "/openapi.json"]
)
def test_all_else_needs_one(locked: Site, path: str) -> None:
    answer = locked.ask("GET", path)
    assert error(answer, 401)["code"] == "invalid_api_key"
    assert answer.headers["www-authenticate"] == 'Bearer realm="mtad"'


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
def test_no_path_leads_around_the_keys(locked: Site, path: str) -> None:
    head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
    assert locked.raw(head).startswith(b"HTTP/1.1 401")


def test_an_open_path_is_open_for_reading_alone(locked: Site) -> None:
    assert error(locked.ask("POST", "/"), 401)


@pytest.mark.parametrize(
    ("header", "owner"),
    [
        (b"Bearer right-key-1", "ann"),
        (b"bearer right-key-1", "ann"),
        (b"Bearer   right-key-1", "ann"),
        ("Bearer schlüssel-2".encode(), "bob"),
    ],
)
def test_right_keys(locked: Site, header: bytes, owner: str) -> None:
    answer = locked.ask("GET", "/v1/models", headers={b"Authorization": header})
    assert answer.json()["client"] == owner


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"Bearer",
        b"Bearer wrong-key",
        b"Bearer RIGHT-KEY-1",
        b"Bearer right-key-",
        b"Bearer right-key-11",
        b"Bearer ann:right-key-1",
        b"Basic right-key-1",
        b"right-key-1",
        b"Bearer right-key-1, Bearer right-key-1",
        "Bearer schlüssel-2".encode("latin-1"),
        b"Bearer \xff\xfe",
        b"Bearer " + b"x" * 5000,
    ],
)
def test_wrong_keys(locked: Site, header: bytes) -> None:
    found = error(locked.ask("GET", "/v1/models", headers={b"Authorization": header}), 401)
    assert "right" not in json.dumps(found)


def test_two_keys_at_once_are_none(locked: Site) -> None:
    headers = [("Authorization", "Bearer right-key-1")] * 2
    assert error(locked.ask("GET", "/v1/models", headers=headers), 401)


def test_a_right_key_is_known_on_open_paths_too(locked: Site) -> None:
    headers = {"Authorization": "Bearer right-key-1"}
    assert locked.ask("GET", "/version", headers=headers).json()["client"] == "ann"


def test_without_keys_all_is_open(plain: Site) -> None:
    assert plain.ask("GET", "/v1/models").json()["client"] is None


# ---- limits


def started(call: Callable[[], httpx.Response], count: int) -> list[threading.Thread]:
    threads = [threading.Thread(target=call) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads


def test_a_key_has_so_many_requests_at_a_time(locked: Site) -> None:
    ann = {"Authorization": "Bearer right-key-1"}
    bob = {b"Authorization": "Bearer schlüssel-2".encode()}
    answers: list[int] = []
    locked.gate.clear()
    threads = started(
        lambda: answers.append(locked.ask("POST", "/v1/stream", headers=ann).status_code), 2
    )
    third = wait_until_refused(lambda: locked.ask("POST", "/v1/echo", headers=ann))
    assert error(third, 429)["code"] == "too_many_concurrent_requests"
    assert third.headers["retry-after"] == "1"
    assert locked.ask("POST", "/v1/echo", headers=bob).status_code == 200
    assert locked.ask("GET", "/v1/models", headers=ann).status_code == 200, "reading is free"
    locked.gate.set()
    for thread in threads:
        thread.join(20)
    assert answers == [200, 200]
    wait_for(lambda: locked.ask("POST", "/v1/echo", headers=ann).status_code == 200)


def wait_until_refused(ask: Callable[[], httpx.Response]) -> httpx.Response:
    end = time.monotonic() + 20
    while (answer := ask()).status_code != 429:
        assert time.monotonic() < end
        time.sleep(0.005)
    return answer


def test_a_client_that_leaves_gives_its_place_back() -> None:
    with site(max_concurrent_per_key=1) as place:
        with socket.create_connection(("127.0.0.1", place.port), timeout=20) as sock:
            sock.sendall(b"POST /v1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b"200" in sock.recv(1000)
            assert error(place.ask("POST", "/v1/echo"), 429)
        place.gate.set()
        wait_for(lambda: place.ask("POST", "/v1/echo").status_code == 200)


@pytest.mark.parametrize("length", [0, 1, 999, 1000])
def test_bodies_within_the_limit_arrive_whole(length: int) -> None:
    with site(max_body_bytes=1000) as place:
        assert place.ask("POST", "/v1/echo", content=b"x" * length).json()["length"] == length
        parts = (b"y" * 10 for _ in range(length // 10))
        assert place.ask("POST", "/v1/echo", content=parts).json()["length"] == length // 10 * 10


@pytest.mark.parametrize("length", [1001, 20_000, 10_000_000])
@pytest.mark.parametrize("chunked", [False, True])
def test_bodies_that_are_too_long(length: int, chunked: bool) -> None:
    body = b"x" * length
    with site(max_body_bytes=1000) as place:
        if length < 16_000 or not chunked:
            content = iter([body[:500], body[500:]]) if chunked else body
            found = error(place.ask("POST", "/v1/echo", content=content), 413)
            assert found["code"] == "body_too_large" and "1000 bytes" in found["message"]
        assert place.ask("POST", "/v1/echo", content=b"z").json()["length"] == 1


def test_a_body_that_is_announced_as_too_long_is_not_asked_for() -> None:
    with site(max_body_bytes=1000) as place:
        head = b"POST /v1/echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000000\r\n"
        answer = place.raw(head + b"Expect: 100-continue\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 413") and b"body_too_large" in answer


def test_a_slow_body_is_not_waited_for() -> None:
    with site(body_timeout_s=0.3) as place:
        head = b"POST /v1/echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nabc"
        answer = place.raw(head)
        assert answer.startswith(b"HTTP/1.1 408") and b"body_too_slow" in answer
        assert b"connection: close" in answer.lower()


def test_a_client_that_leaves_within_its_body_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    with site() as place:
        with socket.create_connection(("127.0.0.1", place.port), timeout=20) as sock:
            sock.sendall(b"POST /v1/echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\na")
        wait_for(lambda: place.lines)
        assert json.loads(place.lines[0])["status"] is None
    assert not caplog.records


@pytest.mark.parametrize(
    "sent", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: localhost\r\nX: y\r\n"]
)
def test_a_slow_head_is_not_waited_for(sent: bytes) -> None:
    with site(body_timeout_s=0.3) as place:
        assert place.raw(sent) == b""


def test_a_slow_head_of_a_second_request_is_not_waited_for_either() -> None:
    with (
        site(body_timeout_s=0.3) as place,
        socket.create_connection(("127.0.0.1", place.port), timeout=20) as sock,
    ):
        sock.sendall(b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait_for(lambda: place.lines)
        sock.sendall(b"GET /ver")
        assert everything(sock).startswith(b"HTTP/1.1 200")


def test_the_rest_of_a_body_that_nobody_reads_is_not_waited_for() -> None:
    with (
        site(KEYS, body_timeout_s=0.3) as place,
        socket.create_connection(("127.0.0.1", place.port), timeout=20) as sock,
    ):
        sock.sendall(b"POST /v1/echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999\r\n\r\n")
        assert sock.recv(4096).startswith(b"HTTP/1.1 401")
        with pytest.raises(OSError):
            for _ in range(100):
                sock.sendall(b"x")
                time.sleep(0.05)


def test_a_client_that_takes_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection, "stall_timeout_s", 0.3)
    with (
        site() as place,
        socket.create_connection(("127.0.0.1", place.port), timeout=20) as sock,
    ):
        sock.sendall(b"POST /v1/endless HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait_for(lambda: place.lines)
        assert json.loads(place.lines[0])["status"] == 200
        assert b"x" * 1000 in everything(sock), "what was sent can still be read"


def test_a_client_that_takes_its_time_gets_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection, "stall_timeout_s", 0.3)
    with (
        site() as place,
        socket.create_connection(("127.0.0.1", place.port), timeout=20) as sock,
    ):
        sock.sendall(b"POST /v1/endless HTTP/1.1\r\nHost: localhost\r\n\r\n")
        for _ in range(10):
            time.sleep(0.1)
            assert sock.recv(2**21, socket.MSG_WAITALL)
        assert not place.lines


def test_an_answer_may_take_longer_than_the_head() -> None:
    with site(body_timeout_s=0.2) as place:
        threading.Timer(0.6, place.gate.set).start()
        assert place.ask("POST", "/v1/wait", content=b"{}").status_code == 200


@pytest.mark.parametrize(
    "head",
    [
        b"GET /version HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 20_000,
        b"GET /version HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 4000 + b"Z: z",
        b"GET /version?" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: localhost",
        b"GET /version HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 1_000_000,
    ],
)
def test_heads_that_are_too_long(plain: Site, head: bytes) -> None:
    answer = plain.raw(head + b"\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 431") or answer == b"", answer[:100]
    assert answer == b"" or b'"code": "headers_too_large"' in answer
    assert plain.ask("GET", "/version").status_code == 200


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
def test_what_is_no_http(plain: Site, sent: bytes) -> None:
    with site(body_timeout_s=0.5) as place:
        answer = place.raw(sent)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400"), answer
    assert answer == b"" or b'"code": "invalid_http"' in answer


# ---- identity and safety headers


def test_every_answer_has_an_id_of_its_own(plain: Site) -> None:
    answers = [plain.ask("GET", "/version") for _ in range(2)]
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert ids == [answer.json()["id"] for answer in answers]
    assert len(set(ids)) == 2 and all(i.startswith("req-") for i in ids)


@pytest.mark.parametrize("given", ["a", "A-b_c.9", "x" * 64])
def test_a_clients_id_is_kept(plain: Site, given: str) -> None:
    answer = plain.ask("GET", "/version", headers={"X-Request-Id": given})
    assert answer.headers["x-request-id"] == given == answer.json()["id"]


@pytest.mark.parametrize("given", ["", "a b", "x" * 65, "a;b", '"', "ä".encode(), "{}"])
def test_a_clients_id_that_is_not_sane_is_replaced(plain: Site, given: str | bytes) -> None:
    answer = plain.ask("GET", "/version", headers={"X-Request-Id": given})
    assert answer.headers["x-request-id"].startswith("req-")


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/"), ("GET", "/none"), ("POST", "/v1/fail"), ("POST", "/v1/echo")]
)
def test_browsers_are_told_to_be_careful(plain: Site, method: str, path: str) -> None:
    headers = plain.ask(method, path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'self'" in policy and "frame-ancestors 'none'" in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-frame-options"] == "DENY"
    assert "x-request-id" in headers


# ---- other pages


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "http://127.0.0.1:1",
        "http://localhost.evil.example",
        "null",
        "",
        "http://127.0.0.1:PORT.evil.example",
        "http://evil@127.0.0.1:PORT",
        "http://127.0.0.1:PORT/x",
        "file://127.0.0.1:PORT",
    ],
)
def test_pages_of_others_may_not_ask(plain: Site, origin: str) -> None:
    origin = origin.replace("PORT", str(plain.port))
    own = origin.startswith("http://evil@")  # no browser writes a name; the address is our own
    answer = plain.ask("POST", "/v1/echo", headers={"Origin": origin}, content=b"{}")
    if not own:
        assert error(answer, 403)["code"] == "foreign_origin"
    assert "access-control-allow-origin" not in answer.headers
    for verb in ("DELETE", "PUT", "PATCH", "FROB"):
        assert plain.ask(verb, "/v1/echo", headers={"Origin": origin}).status_code in (403, 405)


def test_our_own_page_may_ask(plain: Site) -> None:
    for name in ("127.0.0.1", "localhost", "LOCALHOST"):
        host = f"{name}:{plain.port}"
        headers = {"Origin": f"http://{host.lower()}", "Host": host}
        assert plain.ask("POST", "/v1/echo", headers=headers).status_code == 200


def test_a_page_behind_a_proxy_with_tls_may_ask() -> None:
    with site(allowed_hosts=("chat.example",)) as place:
        headers = {"Origin": "https://chat.example", "Host": "chat.example"}
        assert place.ask("POST", "/v1/echo", headers=headers).status_code == 200
        headers["Host"] = "chat.example:443"
        assert place.ask("POST", "/v1/echo", headers=headers).status_code == 200
        headers["Host"] = "other.example"
        assert error(place.ask("POST", "/v1/echo", headers=headers), 403)


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "10.0.0.1", "", "[::1", ":80"]
)
def test_names_of_others_do_not_lead_to_a_local_server(plain: Site, host: str) -> None:
    answer = plain.ask("GET", "/version", headers={"Host": host})
    assert answer.status_code == 403 or answer.status_code == 400
    assert "id" not in answer.json()


def test_a_server_for_all_answers_to_any_name_unless_some_are_given() -> None:
    with site(host="0.0.0.0") as place:
        assert place.ask("GET", "/version", headers={"Host": "any.example"}).status_code == 200
    with site(host="0.0.0.0", allowed_hosts=("one.example",)) as place:
        for host, status in (("one.example:80", 200), ("localhost", 200), ("any.example", 403)):
            assert place.ask("GET", "/version", headers={"Host": host}).status_code == status


def test_pages_that_the_operator_lists_may_ask() -> None:
    page = "https://chat.example"
    with site(KEYS, cors_origins=(page,)) as place:
        asked = {"Origin": page, "Access-Control-Request-Method": "POST"}
        asked["Access-Control-Request-Headers"] = "authorization,content-type"
        before = place.ask("OPTIONS", "/v1/echo", headers=asked)
        assert before.status_code == 200, "without a key, which browsers do not send here"
        assert before.headers["access-control-allow-origin"] == page
        assert "authorization" in before.headers["access-control-allow-headers"]
        headers = {"Origin": page, "Authorization": "Bearer right-key-1"}
        answer = place.ask("POST", "/v1/echo", headers=headers)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == page
        assert "access-control-allow-credentials" not in answer.headers
        keyless = place.ask("POST", "/v1/echo", headers={"Origin": page})
        assert keyless.status_code == 401
        assert keyless.headers["access-control-allow-origin"] == page, "the page can read why"
        headers["Origin"] = "https://evil.example"
        assert error(place.ask("POST", "/v1/echo", headers=headers), 403)
        asked["Origin"] = "https://evil.example"
        evil = place.ask("OPTIONS", "/v1/echo", headers=asked)
        assert "access-control-allow-origin" not in evil.headers


# ---- streams


def test_streams_pass_through_piece_by_piece(plain: Site) -> None:
    plain.gate.clear()
    with (
        httpx.Client(base_url=plain.url, trust_env=False, timeout=30) as client,
        client.stream("POST", "/v1/stream", content=b"{}") as answer,
    ):
        pieces = answer.iter_text()
        assert next(pieces) == "one"
        plain.gate.set()
        assert list(pieces) == ["two"]


# ---- logs


def test_a_line_per_request(locked: Site) -> None:
    locked.lines.clear()
    headers = {"Authorization": "Bearer right-key-1", "X-Request-Id": "mine"}
    locked.ask("POST", "/v1/echo", headers=headers, content=SECRET)
    locked.ask("GET", f"/{SECRET}?{SECRET}", headers={"Authorization": "Bearer right-key-1"})
    locked.ask("GET", "/v1/models", headers={"Authorization": f"Bearer {SECRET}"})
    wait_for(lambda: len(locked.lines) == 3)
    first, second, third = map(json.loads, locked.lines)
    assert first["request_id"] == "mine" and first["client"] == "ann"
    assert (first["http"], first["route"], first["status"]) == ("POST", "/v1/echo", 200)
    assert first["total_s"] >= 0 and first["time"].endswith("+00:00")
    assert (second["route"], second["status"]) == ("unknown", 404)
    assert (third["status"], third["client"]) == (401, None)
    text = "".join(locked.lines)
    assert SECRET not in text and "right-key-1" not in text


def test_errors_are_logged_without_what_was_asked() -> None:
    lines: list[str] = []
    before = {
        name: logging.getLogger(name) for name in ("mtad", "uvicorn", "asyncio", "concurrent")
    }
    kept = {name: (logger.handlers, logger.propagate) for name, logger in before.items()}
    catch_records(Log("json", lines.append))
    try:
        with site() as place:
            answer = place.ask("POST", "/v1/fail", content=SECRET)
    finally:
        for name, (handlers, propagate) in kept.items():
            before[name].handlers, before[name].propagate = handlers, propagate
    assert error(answer, 500)["code"] == "internal_error"
    assert SECRET not in answer.text and SECRET not in "".join(lines)
    found = [json.loads(line) for line in lines]
    [record] = [line for line in found if line.get("error") == "RuntimeError"]
    assert record["level"] == "error" and any("fail" in place for place in record["at"])


def test_what_an_unfetched_error_says_is_not_logged() -> None:
    lines: list[str] = []
    record = logging.LogRecord(
        "asyncio", logging.ERROR, "", 0, f"never fetched\nfuture: {SECRET}", None, None
    )
    _Handler(Log("json", lines.append), with_messages=False).emit(record)
    _Handler(Log("json", lines.append), with_messages=True).emit(record)
    first, second = lines
    assert json.loads(first)["message"] == "never fetched"
    assert SECRET not in first and SECRET in second


@pytest.mark.parametrize("form", ["json", "text"])
def test_no_line_can_steer_a_terminal(form: Any) -> None:
    lines: list[str] = []
    name = "ä 猫\x9b31m\u202e\u2028\x1b[0m\ud800\U000e0001"
    Log(form, lines.append).line({"user": name})
    assert lines[0].isprintable() and "ä 猫" in lines[0]
    if form == "json":
        assert json.loads(lines[0])["user"] == name


def test_a_verb_of_no_known_kind_is_not_repeated(plain: Site) -> None:
    plain.lines.clear()
    assert plain.ask(SECRET.upper(), "/version").status_code == 405
    wait_for(lambda: plain.lines)
    assert json.loads(plain.lines[0])["http"] == "unknown"


def told(journal: Journal, request_id: str, clock: float) -> None:
    """What a scheduler would tell about a request with two choices."""
    works = [
        Work(Text([7, 8, 9]), mtad.MTAD(), request_id=request_id, client="ann") for _ in range(2)
    ]
    jobs = [Job(work, lambda update: None, arrived_at=clock) for work in works]
    for job in jobs:
        job.admitted_at, job.first_token_at = clock + 0.5, clock + 0.75
        journal.admitted(job)
    journal.iterated([(job, Block(0, (1, 2, 3), 2, 4, 4, None)) for job in jobs], 0.1)
    journal.iterated([(jobs[0], Block(0, (4,), 1, 4, 4, "stop"))], 0.1)
    journal.ended(jobs[1], "cancelled")


def logged(journal: Journal, with_text: bool = False, form: Any = "json") -> list[str]:
    """The log of one request of which a scheduler told."""
    lines: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        told(journal, scope["state"]["request_id"], time.monotonic())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def send(message: Any) -> None:
        pass

    text_of = (lambda ids: f"text of {list(ids)}") if with_text else None
    log = RequestLog(app, journal, Log(form, lines.append), None, text_of)
    scope = {"type": "http", "method": "POST", "path": "/x", "headers": [], "query_string": b""}
    asyncio.run(log(scope, send, send))
    return lines


def test_the_line_has_what_the_scheduler_told() -> None:
    journal = Journal()
    [line] = logged(journal)
    record = json.loads(line)
    wanted = {
        "method": "mtad",
        "prompt_tokens": 3,
        "output_tokens": 7,
        "queue_s": 0.5,
        "ttft_s": 0.75,
        "finish_reasons": ["stop", "cancelled"],
        "mean_acceptance_length": round(1 + 5 / 3, 3),
    }
    assert {name: record[name] for name in wanted} == wanted
    assert "prompts" not in record and "outputs" not in record
    assert not journal._open, "it is forgotten"


def test_prompts_and_outputs_are_logged_if_asked_for() -> None:
    [line] = logged(Journal(), with_text=True)
    record = json.loads(line)
    assert record["prompts"] == ["text of [7, 8, 9]"] * 2
    assert record["outputs"] == ["text of [1, 2, 3, 4]", "text of [1, 2, 3]"]


def test_lines_for_people() -> None:
    [line] = logged(Journal(), form="text")
    assert 'http="POST"' in line and "status=200" in line and "output_tokens=7" in line


def test_a_job_of_no_request_at_work_is_not_noted() -> None:
    journal = Journal()
    told(journal, "gone", 0.0)
    assert not journal._open


def test_two_requests_of_one_id_at_a_time_are_told_apart(plain: Site) -> None:
    plain.lines.clear()
    plain.gate.clear()
    same = {"X-Request-Id": "twin"}
    [thread] = started(lambda: plain.ask("POST", "/v1/wait", headers=same), 1)
    wait_for(lambda: "twin" in plain.journal._open)
    second = plain.ask("GET", "/version", headers=same).headers["x-request-id"]
    assert second.startswith("req-")
    plain.gate.set()
    thread.join(20)


# ---- the program


class Program:
    """`mtad serve` as its own process."""

    def __init__(self, *flags: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            [*MAIN, "serve", "--port", "0", *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        )
        self.client = httpx.Client(trust_env=False, timeout=60)

    def begin(self) -> None:
        """Wait until it serves."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("mtad serves demo on http://127.0.0.1:"), line
        self.client.base_url = line.split()[-1]

    def ask(self, **body: Any) -> httpx.Response:
        return self.client.post("/v1/completions", json={"model": "demo", **body})

    @contextlib.contextmanager
    def stream(self, **body: Any) -> Iterator[Iterator[dict[str, Any]]]:
        """The events of an answer that has begun."""
        asked = {"model": "demo", "prompt": "SELECT", "stream": True, **body}
        with self.client.stream("POST", "/v1/completions", json=asked) as answer:
            events = self._events(answer)
            next(events)
            yield events

    @staticmethod
    def _events(answer: httpx.Response) -> Iterator[dict[str, Any]]:
        for line in answer.iter_lines():
            if line.startswith("data: "):
                word = line.removeprefix("data: ")
                yield {"done": True} if word == "[DONE]" else json.loads(word)

    def end(self) -> str:
        """What it wrote to stderr until it ended, as it should, with 0."""
        self.client.close()
        _, errors = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, errors
        assert "Traceback" not in errors
        return errors


@contextlib.contextmanager
def program(*flags: str, **environment: str) -> Iterator[Program]:
    found = Program(*flags, **environment)
    try:
        found.begin()
        yield found
    finally:
        found.client.close()
        found.process.kill()
        found.process.communicate()


def test_the_program_runs_the_loop_that_these_tests_run() -> None:
    assert run._config(routes(threading.Event()), ServerSettings()).loop == "asyncio"


LONG = {"max_tokens": 200, "ignore_eos": True, "seed": 1}


def test_a_signal_lets_running_requests_end_and_takes_no_others() -> None:
    with program("--max-header-bytes", "4000", MTAD_API_KEYS="ann:right-key-1") as server:
        assert server.client.get("/health/ready").status_code == 200
        assert server.ask(prompt=SECRET).status_code == 401
        server.client.headers["Authorization"] = "Bearer right-key-1"
        answer = server.ask(prompt=SECRET, max_tokens=4, ignore_eos=True, user="me")
        assert answer.status_code == 200 and "server" not in answer.headers
        assert server.ask(prompt=SECRET, temperature=SECRET).status_code == 400
        long_head = {"X": "x" * 5000}
        assert server.client.get("/health", headers=long_head).status_code == 431
        with server.stream(**LONG) as events:
            server.process.send_signal(signal.SIGTERM)
            wait_for(lambda: server.client.get("/health/ready").status_code == 503)
            late = server.ask(prompt="x")
            assert error(late, 503)["type"] == "server_error"
            told = list(events)
        assert told[-1] == {"done": True}
        assert told[-2]["choices"][0]["finish_reason"] == "length"
        errors = server.end()
    assert SECRET not in errors and "right-key" not in errors
    lines = [json.loads(line) for line in errors.splitlines() if line.startswith("{")]
    [first] = [line for line in lines if line.get("output_tokens") == 4]
    assert (first["client"], first["user"], first["status"]) == ("ann", "me", 200)
    assert (first["finish_reasons"], first["method"]) == (["length"], "mtad")
    asked = [line for line in lines if line["http"] == "POST"]
    assert [line["status"] for line in asked] == [401, 200, 400, 503, 200]
    assert [line["route"] for line in asked] == ["unknown"] + ["/v1/completions"] * 4


def test_the_time_to_end_is_limited() -> None:
    with program("--shutdown-s", "0.05", "--log-format", "text") as server:
        with server.stream(**LONG) as events:
            server.process.send_signal(signal.SIGINT)
            *_, last = events
        assert last["error"]["type"] == "server_error"
        errors = server.end()
    assert 'finish_reasons=["closing"]' in errors


def test_a_second_signal_ends_it_at_once() -> None:
    with program() as server:
        with server.stream(**LONG) as events:
            server.process.send_signal(signal.SIGINT)
            wait_for(lambda: server.client.get("/health/ready").status_code == 503)
            server.process.send_signal(signal.SIGINT)
            *_, last = events
        assert last["error"]["type"] == "server_error"
        server.end()


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        message = refused("serve", "--port", port, code=1)
    assert f"cannot listen on 127.0.0.1, port {port}: Address already in use" in message
    assert "choose another --port" in message
    assert "Warning" not in message


def test_a_host_that_is_none() -> None:
    assert "cannot listen on 192.0.2.1, port 0" in refused(
        "serve", "--host", "192.0.2.1", "--port", "0", code=1
    )


def test_a_server_for_all_without_keys_is_warned_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = tmp_path / "keys"
    keys.write_text("right-key-1\n")
    keys.chmod(0o644)
    with socket.create_server(("0.0.0.0", 0)) as taken:
        words = ("serve", "--host", "0.0.0.0", "--port", str(taken.getsockname()[1]))
        assert "Warning: everyone who can reach 0.0.0.0 may use this server" in refused(
            *words, code=1
        )
        message = refused(*words, "--api-key-file", str(keys), code=1)
        assert "everyone" not in message
        assert f"Warning: the key file {keys} can be read by others" in message
        monkeypatch.setenv("MTAD_API_KEYS", "right-key-2")
        assert "everyone" not in refused(*words, code=1)


def test_a_default_method_that_cannot_be_served() -> None:
    words = ("serve", "--port", "0", "--method", "mtad")
    message = refused(*words, "--target-model", "nowhere")
    assert "mtad needs a draft model; give --draft-model" in message
    message = refused(*words, "-o", "num_draft_tokens=9", "-o", "beam_width=9", "--max-nodes", "20")
    assert "mtad, the default method, has a tree of 82 nodes; max_nodes is 20" in message


# ---- deployment


@pytest.mark.parametrize("name", ["mtad.service"])
def test_the_unit_is_one(name: str, tmp_path: Path) -> None:
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("systemd-analyze is not installed")
    text = (Path(__file__).parents[2] / "deploy" / name).read_text()
    unit = tmp_path / name
    unit.write_text(text.replace("/opt/mtad/bin/mtad", "/bin/true"))
    done = subprocess.run([tool, "verify", str(unit)], capture_output=True, text=True, check=False)
    complaints = [line for line in done.stderr.splitlines() if name in line]
    assert not complaints, done.stderr

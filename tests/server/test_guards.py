"""What stands in front of the routes, in this process: keys, limits, origins, safe headers."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from support.site import KEYS, Site, error, site

from mtad.server.http.guards import BodyDeadline


@pytest.fixture(scope="module")
def plain() -> Site:
    return site()


@pytest.fixture
def locked() -> Site:
    return site(KEYS, max_concurrent_per_key=2)


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


def test_a_key_has_so_many_requests_at_a_time(locked: Site) -> None:
    ann = {"Authorization": "Bearer right-key-1"}
    bob = {b"Authorization": "Bearer schlüssel-2".encode()}

    async def asked() -> list[httpx.Response]:
        async with locked.client() as client:
            two = [asyncio.create_task(client.post("/v1/wait", headers=ann)) for _ in range(2)]
            await asyncio.sleep(0)  # both are in progress
            third = await client.post("/v1/echo", headers=ann)
            other = await client.post("/v1/echo", headers=bob)
            read = await client.get("/v1/models", headers=ann)
            locked.gate.is_open = True
            first = await asyncio.gather(*two)
            return [*first, third, other, read, await client.post("/v1/echo", headers=ann)]

    *first, third, other, read, later = asyncio.run(asked())
    assert error(third, 429)["code"] == "too_many_concurrent_requests"
    assert third.headers["retry-after"] == "1"
    assert other.status_code == 200
    assert read.status_code == 200, "reading is free"
    assert [answer.status_code for answer in (*first, later)] == [200, 200, 200]


@pytest.mark.parametrize("length", [0, 1, 999, 1000])
def test_bodies_within_the_limit_arrive_whole(length: int) -> None:
    place = site(max_body_bytes=1000)
    assert place.ask("POST", "/v1/echo", content=b"x" * length).json()["length"] == length
    parts = chunks([b"y" * 10] * (length // 10))
    assert place.ask("POST", "/v1/echo", content=parts).json()["length"] == length // 10 * 10


async def chunks(parts: list[bytes]) -> Any:
    for part in parts:
        yield part


@pytest.mark.parametrize("length", [1001, 20_000, 10_000_000])
@pytest.mark.parametrize("chunked", [False, True])
def test_bodies_that_are_too_long(length: int, chunked: bool) -> None:
    body = b"x" * length
    content = chunks([body[:500], body[500:]]) if chunked else body
    found = error(site(max_body_bytes=1000).ask("POST", "/v1/echo", content=content), 413)
    assert found["code"] == "body_too_large" and "1000 bytes" in found["message"]


def test_a_route_that_reads_no_body_refuses_a_long_one_too() -> None:
    answer = site(max_body_bytes=1000).ask("POST", "/v1/none", content=b"x" * 1001)
    assert error(answer, 413)["code"] == "body_too_large"


@pytest.mark.slow
def test_the_body_has_its_time_and_what_comes_after_it_has_more() -> None:
    """The deadline is for all messages of the body together, and not for the disconnect."""
    received: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for _ in range(3):
            received.append((await receive())["type"])

    times = iter([0.0, 0.02, 0.3])

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(next(times))
        return {"type": f"m{len(received)}", "more_body": len(received) < more}

    scope: dict[str, Any] = {"type": "http"}
    more = 1
    asyncio.run(BodyDeadline(app, 0.2)(scope, receive, app))
    assert received == ["m0", "m1", "m2"]
    received.clear()
    times, more = iter([0.0, 30.0]), 9
    with pytest.raises(Exception, match=r"did not arrive within 0\.05 s") as caught:
        asyncio.run(BodyDeadline(app, 0.05)(scope, receive, app))
    assert getattr(caught.value, "status_code", None) == 408
    assert received == ["m0"]


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
def test_responses_have_headers_for_browsers(plain: Site, method: str, path: str) -> None:
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
    origin = origin.replace("PORT", "8000")
    own = origin.startswith("http://evil@")  # no browser writes a name; the address is our own
    answer = plain.ask("POST", "/v1/echo", headers={"Origin": origin}, content=b"{}")
    if not own:
        assert error(answer, 403)["code"] == "foreign_origin"
    assert "access-control-allow-origin" not in answer.headers
    for verb in ("DELETE", "PUT", "PATCH", "FROB"):
        assert plain.ask(verb, "/v1/echo", headers={"Origin": origin}).status_code in (403, 405)


def test_our_own_page_may_ask(plain: Site) -> None:
    for name in ("127.0.0.1", "localhost", "LOCALHOST"):
        host = f"{name}:8000"
        headers = {"Origin": f"http://{host.lower()}", "Host": host}
        assert plain.ask("POST", "/v1/echo", headers=headers).status_code == 200


def test_a_page_behind_a_proxy_with_tls_may_ask() -> None:
    place = site(allowed_hosts=("chat.example",))
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
    place = site(host="0.0.0.0")
    assert place.ask("GET", "/version", headers={"Host": "any.example"}).status_code == 200
    place = site(host="0.0.0.0", allowed_hosts=("one.example",))
    for host, status in (("one.example:80", 200), ("localhost", 200), ("any.example", 403)):
        assert place.ask("GET", "/version", headers={"Host": host}).status_code == status


def test_pages_that_the_operator_lists_may_ask() -> None:
    page = "https://chat.example"
    place = site(KEYS, cors_origins=(page,))
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

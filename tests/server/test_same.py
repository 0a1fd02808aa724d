"""Requests that mean the same: HEAD as GET, and a path with or without a slash at its end."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from support.serving import FakeScheduler, Served, demo, serving
from support.site import KEYS, Site, error, site

from mtad.server.app import create_app
from mtad.server.ops.metrics import Metrics
from mtad.server.settings import ServerSettings

READ = [
    "/",
    "/health",
    "/health/live",
    "/health/ready",
    "/metrics",
    "/openapi.json",
    "/page/main.js",
    "/tokenizer_info",
    "/v1/methods",
    "/v1/models",
    "/v1/models/demo",
    "/version",
]
OWN = ("date", "x-request-id")


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    scheduler, settings = FakeScheduler(demo()), ServerSettings()
    app = create_app(scheduler, settings, Metrics())
    with serving(app, scheduler, settings) as found:
        yield found


def shown(answer: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name not in OWN}


@pytest.mark.slow
def test_these_are_all_routes_that_are_read(served: Served) -> None:
    paths = served.app.openapi()["paths"]
    described = {path.replace("{model}", "demo") for path, ways in paths.items() if "get" in ways}
    stored = {path for path in described if "{response_id}" in path}  # there is none to be read
    assert described - stored <= set(READ)


@pytest.mark.parametrize("path", READ)
def test_head_has_the_status_and_headers_of_get_and_no_content(served: Served, path: str) -> None:
    with served.client() as client:
        whole, head = client.get(path), client.head(path)
        assert (whole.status_code, head.status_code) == (200, 200)
        assert head.content == b"" and whole.content
        assert shown(head) == shown(whole) or path == "/metrics"
        assert client.get("/version").status_code == 200, "the connection is in step"


def test_head_of_what_is_not_there_or_not_read(served: Served) -> None:
    with served.client() as client:
        assert client.head("/nowhere").status_code == 404
        answer = client.head("/v1/completions")
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
        assert client.post("/health").headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize("path", [path for path in READ if path != "/"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_slash_at_the_end_changes_nothing(served: Served, method: str, path: str) -> None:
    with served.client() as client:
        plain, slash = client.request(method, path), client.request(method, path + "/")
    assert slash.status_code == 200
    assert (slash.content, shown(slash)) == (plain.content, shown(plain)) or path == "/metrics"


def test_requests_may_end_in_a_slash_too(served: Served) -> None:
    body = {"model": "demo", "prompt": "SELECT", "max_tokens": 2, "seed": 1}
    with served.client() as client:
        one = client.post("/v1/completions", json=body).json()["choices"]
        other = client.post("/v1/completions/", json=body)
        assert other.json()["choices"] == one
        assert error(client.get("/v1/models/nobody/"), 404)
        assert error(client.get("/nowhere/"), 404)


@pytest.mark.parametrize("accept", ["*/*", "text/html", "application/json", "text/html;q=0.5, */*"])
def test_the_page_is_given_whatever_is_accepted(served: Served, accept: str) -> None:
    with served.client() as client:
        for answer in (client.get("/", headers={"Accept": accept}), client.head("/")):
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith("text/html")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_keys_are_asked_for_all_the_same(method: str) -> None:
    locked: Site = site(KEYS)
    for path in ("/v1/models", "/v1/models/", "/metrics/", "/v1/"):
        assert locked.ask(method, path).status_code == 401
    for path in ("/health/", "/version/", "/version"):
        assert locked.ask(method, path).status_code == 200
    assert '"route": "/version"' in locked.lines[-1] and f'"http": "{method}"' in locked.lines[-1]

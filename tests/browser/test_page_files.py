"""The files of the page and how they are served; needs no browser."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from mtad.server import page
from mtad.server.http.keys import Keys
from mtad.server.http.middleware import protect
from mtad.server.settings import ServerSettings

FILES = sorted(p for p in Path(page.__file__).parent.iterdir() if p.suffix not in (".py", ""))


def get(path: str, **headers: str) -> httpx.Response:
    """The answer to a GET of an application with nothing but the page and the guards."""
    app = FastAPI()
    page.mount(app)
    protect(app, ServerSettings(), Keys())

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.get(path, headers=headers)

    return asyncio.run(ask())


@pytest.mark.parametrize("path", ["/", *(f"/page/{file.name}" for file in FILES)])
def test_every_file_is_served_as_what_it_is(path: str) -> None:
    answer = get(path)
    kinds = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
    wanted = kinds.get(path.rpartition(".")[2], "text/html")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith(wanted)
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"].startswith("default-src 'self';")
    assert "unsafe" not in answer.headers["content-security-policy"]
    again = get(path, **{"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    "path",
    [
        *("/page/", "/page/nothing.js", "/page/__init__.py", "/page/../jobs.py", "/index.html"),
        *("/page/%2e%2e/jobs.py", "/page/..%2Fjobs.py", "/page/%2Fetc%2Fpasswd"),
    ],
)
def test_nothing_else_is_served(path: str) -> None:
    assert get(path).status_code == 404


def test_the_schema_does_not_list_the_page() -> None:
    app = FastAPI()
    page.mount(app)
    assert app.openapi()["paths"] == {}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_files_need_nothing_from_elsewhere_and_make_no_html(file: Path) -> None:
    text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"(https?:)?//[a-z0-9-]+\.[a-z]", text), "an address of another host"
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert way not in text
    if file.suffix == ".html":
        assert not re.search(r"\s(style|on[a-z]+)=|<script(?![^>]*src)|<style", text)
    assert max(map(len, text.splitlines())) <= 120
    assert len(text.splitlines()) <= 300


def test_files_name_only_files_that_are_there() -> None:
    names = {file.name for file in FILES}
    named = set()
    for file in FILES:
        text = file.read_text(encoding="utf-8")
        named |= set(re.findall(r'from "\./([^"]+)"', text))
        named |= set(re.findall(r'(?:src|href)="page/([^"]+)"', text))
    assert named == names - {"index.html", "main.js"} | {"main.js"}

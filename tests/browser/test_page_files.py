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

FOLDER = Path(page.__file__).parent
FILES = sorted(p for p in FOLDER.iterdir() if p.suffix not in (".py", ""))
VENDORED = sorted((FOLDER / "vendor").glob("*.js"))


def get(path: str, **headers: str) -> httpx.Response:
    """The answer to a GET of an application with nothing but the page and the guards."""
    app = FastAPI(redirect_slashes=False)
    page.mount(app)
    protect(app, ServerSettings(), Keys())

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.get(path, headers=headers)

    return asyncio.run(ask())


@pytest.mark.parametrize(
    "path",
    ["/", *(f"/page/{file.relative_to(FOLDER).as_posix()}" for file in (*FILES, *VENDORED))],
)
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
        *(
            "/page/vendor",
            "/page/vendor/",
            "/page/vendor/../__init__.py",
            "/page/vendor/nothing.js",
        ),
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


def test_what_others_wrote_has_its_licence_and_asks_for_nothing() -> None:
    assert VENDORED
    for file in VENDORED:
        text = file.read_text(encoding="utf-8")
        licence = file.with_name(f"{file.name.partition('.')[0]}.LICENSE").read_text("utf-8")
        assert "License:" in text[:300] and "Copyright" in licence
        for way in (
            "fetch(",
            "XMLHttpRequest",
            "import(",
            "sourceMappingURL",
            "eval(",
            "Function(",
        ):
            assert way not in text, way


def test_files_name_only_files_that_are_there() -> None:
    names = {file.relative_to(FOLDER).as_posix() for file in (*FILES, *VENDORED)}
    named = set()
    for file in FILES:
        text = file.read_text(encoding="utf-8")
        named |= set(re.findall(r'from "\./([^"]+)"', text))
        named |= set(re.findall(r'(?:src|href)="page/([^"]+)"', text))
    assert named == names - {"index.html", "main.js"} | {"main.js"}

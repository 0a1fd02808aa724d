"""Fixtures of the browser tests: Chromium, a page that watches itself, and two servers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, Route, sync_playwright
from support.mock_server import MockServer, serve
from support.serving import demo, real_server

from mtad.api.pair import ModelPair


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """The system's Chromium."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("no Chromium on this machine")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    """A tab that fails its test when a script fails or anything leaves the server."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    troubles: list[str] = []

    def watch(route: Route) -> None:
        if urlsplit(route.request.url).hostname == "127.0.0.1":
            return route.continue_()
        troubles.append(f"asks for {route.request.url}")
        return route.abort()

    context.route("**/*", watch)
    tab = context.new_page()
    tab.set_default_timeout(20_000)
    tab.on("pageerror", lambda error: troubles.append(f"script error: {error}"))
    tab.on("dialog", lambda dialog: (troubles.append("opens a dialog"), dialog.dismiss()))
    yield tab
    context.close()
    assert not troubles


@pytest.fixture
def mock() -> Iterator[MockServer]:
    """A server that says what it is told to say."""
    server = MockServer()
    running = serve(server.app())
    server.url = next(running)
    yield server
    next(running, None)


@pytest.fixture(scope="session")
def demo_pair() -> ModelPair:
    """The embedded pair."""
    return demo()


@pytest.fixture(scope="session")
def live_url() -> Iterator[str]:
    """The real server with the embedded pair."""
    with real_server() as served:
        yield served.url

"""What a person does on the page."""

from __future__ import annotations

from playwright.sync_api import Page, expect

DONE = "#run:not([aria-disabled])"
"""Matches while nothing runs."""


def visit(page: Page, url: str) -> None:
    """Open the page and wait until it can be used."""
    page.goto(url)
    expect(page.locator("html[data-ready]")).to_be_attached()


def settings(page: Page) -> None:
    """Open the settings, which a narrow window begins without."""
    if page.locator("#settings").get_attribute("open") is None:
        page.locator("#settings > summary").click()


def view(page: Page, name: str) -> None:
    """Show texts as "Tokens", or "Formatted"."""
    page.get_by_label(name, exact=True).check()


def run(page: Page) -> None:
    """Press Run, or Send in a chat, and wait for the end."""
    page.locator("#run").click()
    expect(page.locator(DONE)).to_be_attached(timeout=60_000)


def chat(page: Page) -> None:
    """Change to chat mode."""
    page.get_by_label("Chat", exact=True).check()


def race(page: Page) -> None:
    """Change to two lanes."""
    page.get_by_label("Race two").check()


def sideways(page: Page) -> int:
    """By how many pixels the page, or a part of its frame, is too wide for its place."""
    return int(
        page.evaluate(
            """() => {
                const parts = ["html", "body", "main", "#request", "#results", "#thread"];
                const boxes = parts.map((name) => document.querySelector(name));
                return Math.max(...boxes.map((box) => box.scrollWidth - box.clientWidth));
            }"""
        )
    )

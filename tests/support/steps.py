"""What a person does on the page."""

from __future__ import annotations

from playwright.sync_api import Page, expect

DONE = "#run:not([aria-disabled])"
"""Matches while nothing runs."""


def visit(page: Page, url: str) -> None:
    """Open the page and wait until it can be used."""
    page.goto(url)
    expect(page.locator("html[data-ready]")).to_be_attached()


def run(page: Page) -> None:
    """Press Run and wait for the end."""
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.locator(DONE)).to_be_attached(timeout=60_000)


def chat(page: Page) -> None:
    """Change to chat mode."""
    page.get_by_label("Chat", exact=True).check()


def race(page: Page) -> None:
    """Change to two lanes."""
    page.get_by_label("Race two").check()


def sideways(page: Page) -> int:
    """By how many pixels the page is too wide for its window."""
    return int(page.evaluate("document.documentElement.scrollWidth - innerWidth"))

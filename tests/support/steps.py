"""What a person does on the page."""

from __future__ import annotations

from playwright.sync_api import Page, expect

DONE = "#run:not([aria-disabled])"
"""Matches while nothing runs."""


def visit(page: Page, url: str, mode: str = "prompt") -> None:
    """Open the page for a prompt, or as people do it: for a chat; wait until it can be used."""
    page.goto(f"{url}/#mode=prompt" if mode == "prompt" else url)
    expect(page.locator("html[data-ready]")).to_be_attached()


def settings(page: Page) -> None:
    """Open the settings, which a narrow window begins without."""
    if page.locator("#request").is_hidden():
        page.get_by_role("button", name="Settings", exact=True).click()


def close_settings(page: Page) -> None:
    """Close them where they lie over the texts."""
    if page.locator("#close-settings").is_visible():
        page.locator("#close-settings").click()


def view(page: Page, name: str) -> None:
    """Show texts as "Tokens", or "Formatted"."""
    page.get_by_label(name, exact=True).check()


def run(page: Page) -> None:
    """Press Run, or Send in a chat, and wait for the end."""
    close_settings(page)
    page.locator("#run").click()
    expect(page.locator(DONE)).to_be_attached(timeout=60_000)


def chat(page: Page) -> None:
    """Change to chat mode."""
    settings(page)
    page.get_by_label("Chat", exact=True).check()


def race(page: Page) -> None:
    """Change to two lanes."""
    settings(page)
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

"""Takes the pictures of the playground in `docs/images`, with the embedded pair in Chromium.

    python docs/pictures.py

They are for people to look at: nothing compares them, and speeds differ from run to run.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import Browser, Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from support.serving import real_server  # noqa: E402
from support.steps import close_settings, race, run, settings, view, visit  # noqa: E402

FARMER = "Quick question. The farmer looks near the garden. Say it in the past tense."
TEACHER = "One more thing. Rewrite in the past tense: The teacher looks near the bridge."


def opened(browser: Browser, url: str, width: int, height: int, scheme: str = "light") -> Page:
    """The page in a window of this size, with a seed that gives the same texts each time."""
    window = {"width": width, "height": height}
    page = browser.new_context(viewport=window, color_scheme=scheme).new_page()  # type: ignore[arg-type]
    visit(page, url, "chat")
    settings(page)
    page.locator("#seed").fill("4")
    return page


def say(page: Page, text: str) -> None:
    """Send a message and wait for the answer."""
    close_settings(page)
    page.locator("#prompt").fill(text)
    run(page)


def take(page: Page, name: str) -> None:
    """Keep what the page shows now."""
    page.screenshot(path=ROOT / "docs" / "images" / f"playground-{name}.png")
    page.context.close()


def chat(page: Page) -> None:
    """Two turns after a system prompt."""
    page.get_by_label("System prompt").fill("Answer in one sentence.")
    say(page, FARMER)
    say(page, "And now in the future tense, please?")
    page.locator("#history .user").first.hover()
    take(page, "chat")


def one(page: Page) -> None:
    """An answer as tokens, with a card and a tree."""
    say(page, FARMER)
    say(page, TEACHER)
    view(page, "Tokens")
    page.get_by_label("Show rejected drafts").check()
    page.locator(".lane .token.draft").nth(1).click()
    expect(page.locator("#tip")).to_be_visible()
    take(page, "one")


def two(page: Page) -> None:
    """Two methods at once."""
    race(page)
    say(page, TEACHER)
    take(page, "race")


def tools(page: Page) -> None:
    """A call that waits for its result."""
    page.get_by_role("button", name="Example: Tools").click()
    page.get_by_label("Calls of tools").select_option("required")
    known = page.locator("#tools").input_value()
    cities = '"enum": ["Lisbon", "Paris", "Rome"]'
    page.locator("#tools").fill(known.replace('"type": "string"', cities))
    say(page, "What is the weather in Paris?")
    page.get_by_label("Result of get_weather").fill('{"celsius": 18, "sky": "clear"}')
    page.locator("#tools").evaluate("e => (e.scrollTop = 0)")
    page.locator("#structure-box").scroll_into_view_if_needed()
    take(page, "tools")


def kept(page: Page) -> None:
    """The list of chats."""
    for text in (FARMER, "What day is it after Tuesday?", TEACHER):
        if text != FARMER:
            page.locator("#new-chat").click()
        say(page, text)
    page.get_by_role("button", name="Chats", exact=True).click()
    page.locator("#chat-list .open").nth(1).focus()
    take(page, "chats")


def phone(page: Page) -> None:
    """An answer as tokens, with its tree."""
    say(page, FARMER)
    view(page, "Tokens")
    page.locator(".lane .token").first.click()
    page.evaluate("document.activeElement.blur()")
    take(page, "phone")


def main() -> None:
    """Take all of them."""
    with real_server() as served, sync_playwright() as playwright:
        path = shutil.which("chromium") or shutil.which("chromium-browser")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for scene, size in (
            (chat, (1280, 800)),
            (one, (1280, 1060)),
            (two, (1280, 860)),
            (tools, (1280, 900)),
        ):
            scene(opened(browser, served.url, *size))
        for scene, size in ((kept, (1280, 600)), (phone, (390, 844))):
            scene(opened(browser, served.url, *size, "dark"))
        browser.close()


if __name__ == "__main__":
    main()

"""Where things stand: nothing covers a field, is cut without a sign, or is empty."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from support.mock_server import MockServer, record, refusal, story, streamed, told
from support.steps import chat, close_settings, race, run, settings, sideways, view, visit

pytestmark = pytest.mark.browser
pytest_plugins = ["support.browsing"]

WINDOWS = [(1280, 900), (1920, 1080), (1280, 600), (390, 844), (360, 640)]

COVERED = """() => {
    const fields = document.querySelectorAll(
        "input, select, textarea, button, summary, a[href], [tabindex='0']");
    const bar = document.querySelector(".actions");
    const isSeen = (e) => e.checkVisibility() && !e.closest(".skip, [inert]");
    const isUnder = bar.closest("[inert]") !== null;
    const wrong = [];
    for (const field of [...fields].filter(isSeen)) {
        field.scrollIntoView({ block: "nearest" });
        field.focus();
        const [a, b] = [field.getBoundingClientRect(), bar.getBoundingClientRect()];
        const apart = isUnder || a.right <= b.left || b.right <= a.left
            || a.bottom <= b.top || b.bottom <= a.top;
        const y = a.top + Math.min(a.height / 2, 12);
        const top = document.elementFromPoint(a.left + Math.min(a.width, innerWidth) / 2, y);
        const label = field.closest("label");
        const reached = top && (field.contains(top) || label?.contains(top));
        if ((!apart && !bar.contains(field)) || !reached) wrong.push(field.outerHTML.slice(0, 90));
    }
    return wrong;
}"""
"""Fields that the bar with the Run button, or anything else, covers once they are in sight."""


def open_all(page: Page) -> None:
    """Open all that is folded, but the API key, which lies over the page until it is closed."""
    settings(page)
    page.evaluate("document.querySelectorAll('#request details').forEach((d) => (d.open = true))")


@pytest.mark.parametrize("window", WINDOWS, ids=lambda window: "x".join(map(str, window)))
@pytest.mark.parametrize("mode", ["prompt", "chat"])
def test_nothing_covers_a_field(
    page: Page, mock: MockServer, window: tuple[int, int], mode: str
) -> None:
    page.set_viewport_size({"width": window[0], "height": window[1]})
    visit(page, mock.url)
    settings(page)
    race(page)
    if mode == "chat":
        chat(page)
    open_all(page)
    assert page.evaluate(COVERED) == []
    close_settings(page)
    assert page.evaluate(COVERED) == []
    page.locator("#prompt").fill("hello")
    run(page)
    view(page, "Tokens")
    assert page.evaluate(COVERED) == []
    assert sideways(page) <= 0


def test_fields_under_something_are_noticed(page: Page, mock: MockServer) -> None:
    visit(page, mock.url)
    page.evaluate(
        """() => Object.assign(document.querySelector(".actions").style,
            {position: "fixed", left: 0, right: 0, bottom: 0, height: "40%", background: "red"})"""
    )
    assert any("seed" in field for field in page.evaluate(COVERED))


@pytest.mark.parametrize("window", WINDOWS, ids=lambda window: "x".join(map(str, window)))
def test_the_frame_fills_the_window_and_no_more(
    page: Page, mock: MockServer, window: tuple[int, int]
) -> None:
    page.set_viewport_size({"width": window[0], "height": window[1]})
    visit(page, mock.url)
    for _ in range(2):
        height = page.evaluate("document.documentElement.scrollHeight")
        assert height == window[1], "the parts scroll, the page does not"
        run(page)
    chat(page)
    box = page.locator("#run").bounding_box()
    assert box and box["y"] + box["height"] <= window[1], "the button to send is in sight"


def test_the_settings_are_a_drawer_on_a_phone(page: Page, mock: MockServer) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    visit(page, mock.url, "chat")
    expect(page.locator("#request")).to_be_hidden()
    button = page.get_by_role("button", name="Settings", exact=True)
    for way in ("Close", "Escape", "outside"):
        button.click()
        expect(button).to_have_attribute("aria-expanded", "true")
        expect(page.locator("#close-settings")).to_be_focused()
        page.keyboard.press("Shift+Tab")
        assert not page.evaluate("document.activeElement.matches('#top *, #results *')")
        if way == "Close":
            page.locator("#close-settings").click()
        elif way == "Escape":
            page.keyboard.press("Escape")
        else:
            page.mouse.click(380, 400)
        expect(page.locator("#request")).to_be_hidden()
        expect(button).to_be_focused()


def test_the_settings_fold_away_beside_the_texts(page: Page, mock: MockServer) -> None:
    visit(page, mock.url, "chat")
    button = page.get_by_role("button", name="Settings", exact=True)
    before = (page.locator("#results").bounding_box() or {})["width"]
    button.click()
    expect(page.locator("#request")).to_be_hidden()
    assert (page.locator("#results").bounding_box() or {})["width"] > before + 300
    page.keyboard.press("Escape")
    expect(page.locator("#request")).to_be_hidden()
    button.click()
    expect(page.locator("#request")).to_be_visible()


def test_settings_that_cannot_be_sent_are_shown(page: Page, mock: MockServer) -> None:
    visit(page, mock.url)
    page.locator("#temperature").fill("-1")
    page.get_by_role("button", name="Settings", exact=True).click()
    page.locator("#run").click()
    expect(page.locator("#temperature")).to_be_focused()
    assert mock.bodies == []


def test_people_begin_with_a_chat_and_links_lead_to_a_prompt(page: Page, mock: MockServer) -> None:
    visit(page, mock.url, "chat")
    expect(page.locator("#empty h2")).to_have_text("Chat with mock-pair")
    expect(page.get_by_placeholder("Message the model")).to_be_visible()
    page.get_by_label("Prompt", exact=True).first.check()
    assert page.url.endswith("/#mode=prompt")
    page.reload()
    expect(page.locator("#prompt-label")).to_have_text("Prompt")
    chat(page)
    assert page.url.endswith("/")


def test_before_the_first_run_there_is_a_hint_and_no_card(page: Page, mock: MockServer) -> None:
    visit(page, mock.url)
    expect(page.locator("#empty")).to_be_visible()
    expect(page.locator(".lane")).to_be_hidden()
    assert "–" not in page.locator("#results").inner_text()
    race(page)
    expect(page.locator("#lanes")).to_be_hidden()
    chat(page)
    expect(page.locator("#empty")).to_contain_text("Ask something")
    page.locator("#prompt").fill("hello")
    run(page)
    expect(page.locator("#empty")).to_be_hidden()
    expect(page.locator(".lane")).to_have_count(2)
    page.get_by_role("button", name="New chat").click()
    expect(page.locator("#empty")).to_be_visible()


def test_an_error_stands_without_empty_figures(page: Page, mock: MockServer) -> None:
    mock.answer = lambda body: refusal(400, "top_k is -1")
    visit(page, mock.url)
    run(page)
    expect(page.locator(".lane").get_by_role("alert")).to_contain_text("top_k is -1")
    expect(page.locator(".figures")).to_be_hidden()
    assert "–" not in page.locator("#results").inner_text()


def wide(columns: int) -> list[Any]:
    """A text of one iteration with so many accepted drafts."""
    return [record(0, [f" t{i}" for i in range(columns)], " end")]


def sides(page: Page) -> Iterable[str]:
    """Where the drawing of the tree says that it goes on."""
    return set((page.locator("#inspector .canvas").first.get_attribute("data-more") or "").split())


def test_a_tree_that_is_wider_than_a_phone_scrolls_and_says_so(
    page: Page, mock: MockServer
) -> None:
    mock.answer = lambda body: streamed(told(body, wide(6)))
    page.set_viewport_size({"width": 390, "height": 844})
    visit(page, mock.url)
    run(page)
    canvas = page.locator("#inspector .canvas").first
    assert canvas.evaluate("e => e.scrollWidth - e.clientWidth") > 100
    assert sideways(page) <= 0, "the box scrolls, not the page"
    expect(page.locator("#inspector .cue").first).to_have_text(re.compile("scroll it sideways"))
    expect(page.locator("#inspector .cue").first).to_be_visible()
    expect(canvas).to_have_attribute("data-more", "right")
    assert "48px" in canvas.evaluate("e => getComputedStyle(e).maskImage")
    canvas.evaluate("e => (e.scrollLeft = 60)")
    expect(canvas).to_have_attribute("data-more", "left right")
    canvas.evaluate("e => (e.scrollLeft = e.scrollWidth)")
    expect(canvas).to_have_attribute("data-more", "left")


def test_a_tree_that_fits_says_nothing(page: Page, mock: MockServer) -> None:
    mock.answer = lambda body: streamed(told(body, wide(6)))
    page.set_viewport_size({"width": 390, "height": 844})
    visit(page, mock.url)
    run(page)
    expect(page.locator("#inspector .canvas").first).to_have_attribute("data-more", "right")
    page.set_viewport_size({"width": 1920, "height": 1080})
    expect(page.locator("#inspector .canvas").first).to_have_attribute("data-more", "")
    expect(page.locator("#inspector .cue").first).to_be_hidden()
    mock.answer = lambda body: streamed(told(body, wide(0)))
    page.set_viewport_size({"width": 390, "height": 844})
    expect(page.locator("#request")).to_be_hidden()  # a narrow page closes them, a moment later
    run(page)
    expect(page.locator("#inspector .cue").first).to_be_hidden()


def test_a_seed_is_drawn_for_every_run_and_shown(page: Page, mock: MockServer) -> None:
    visit(page, mock.url)
    for _ in range(3):
        run(page)
        sent = mock.bodies[-1]["seed"]
        assert page.locator("#seed").input_value() == str(sent)
        expect(page.locator(".foot")).to_contain_text(f"seed {sent} ")
    assert len({body["seed"] for body in mock.bodies}) == 3


def test_a_seed_is_kept_on_demand(page: Page, mock: MockServer) -> None:
    visit(page, mock.url)
    run(page)
    page.get_by_label("Keep", exact=True).check()
    run(page)
    page.locator("#seed").fill("11")
    run(page)
    run(page)
    page.get_by_label("Keep", exact=True).uncheck()
    run(page)
    seeds = [body["seed"] for body in mock.bodies]
    assert seeds[0] == seeds[1]
    assert seeds[2:4] == [11, 11]
    assert seeds[4] != 11


def test_writing_a_seed_keeps_it_and_clearing_it_does_not(page: Page, mock: MockServer) -> None:
    visit(page, mock.url)
    page.locator("#seed").fill("5")
    expect(page.get_by_label("Keep", exact=True)).to_be_checked()
    page.locator("#seed").fill("")
    expect(page.get_by_label("Keep", exact=True)).not_to_be_checked()
    page.get_by_label("Keep", exact=True).check()
    page.locator("#run").click()  # nothing to keep: the browser asks for a seed
    expect(page.locator("#seed")).to_be_focused()
    assert mock.bodies == []


def test_both_lanes_have_one_seed(page: Page, mock: MockServer) -> None:
    visit(page, mock.url)
    race(page)
    run(page)
    first, second = mock.bodies
    assert first["seed"] == second["seed"]


@pytest.mark.parametrize("end", ["<|eos|>", "</s>", "<\uff5cend\uff5c>", "[END]"])
def test_the_token_that_ends_a_text_is_a_sign_and_no_text(
    page: Page, mock: MockServer, end: str
) -> None:
    last = record(2, [" b", end], None) | {"finish_reason": "stop"}

    def events(body: Any) -> Any:
        for event in told(body, [record(0, [" a"], " <b>"), last]):
            shown = event if not isinstance(event, dict) else event["choices"] and event
            if shown and isinstance(event, dict) and event["choices"][0].get("text") == f" b{end}":
                event["choices"][0]["text"] = " b"
            yield event

    mock.answer = lambda body: streamed(events(body))
    visit(page, mock.url)
    run(page)
    expect(page.locator(".text")).to_have_text(" a <b> b", use_inner_text=False)
    sign = page.locator(".text .token").last
    assert sign.get_attribute("data-mark") == end.strip("</>|\uff5c")
    sign.hover()
    expect(page.locator(".tip-token")).to_have_text(end)
    view(page, "Formatted")
    expect(page.locator(".prose")).to_have_text("a <b> b")


def test_a_mode_keeps_its_own_unsent_text(page: Page, mock: MockServer) -> None:
    visit(page, mock.url)
    prompt = page.locator("#prompt")
    prompt.fill("SQL:")
    chat(page)
    expect(prompt).to_have_value("")
    prompt.fill("hello")
    page.get_by_label("Prompt", exact=True).first.check()
    expect(prompt).to_have_value("SQL:")
    chat(page)
    expect(prompt).to_have_value("hello")


def test_another_mode_stops_what_runs(page: Page, mock: MockServer) -> None:
    mock.answer = lambda body: streamed(told(body, story(400), pause=0.05))
    visit(page, mock.url)
    page.locator("#run").click()
    expect(page.locator(".text .token").first).to_be_visible()
    chat(page)
    expect(page.locator("#stop")).to_be_hidden()
    expect(page.locator(".lane")).to_be_hidden()
    expect(page.locator("#history li")).to_have_count(0)
    expect(page.locator("#prompt")).to_have_value("")

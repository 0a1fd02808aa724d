"""What a model thought before it answered: open while it comes, then folded, and not sent back."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import Response
from playwright.sync_api import Page, expect
from support.mock_server import CALLS, Body, Event, MockServer, record, streamed, told
from support.steps import DONE, run, view, visit

pytestmark = pytest.mark.browser
pytest_plugins = ["support.browsing"]

THOUGHTS = ["Let me ", "*see*.\n\n", "<img src=x onerror=alert(1)>"]


def thought(texts: list[str], pause: float = 0.0) -> Iterator[Event]:
    """Pieces of thinking, each one iteration."""
    for position, text in enumerate(texts):
        delta = {"reasoning_content": text}
        trace = record(position, [], text)
        yield {"choices": [{"index": 0, "delta": delta}], "mtad": {"trace": trace}}
        yield pause


def answering(body: Body, pause: float = 0.0, after: str = " so") -> Response:
    """An answer after thinking."""
    return streamed([*thought(THOUGHTS, pause), *told(body, [record(9, [after], ".")])])


def slow(body: Body) -> Response:
    """The same, so slowly that it can be looked at."""

    def events() -> Iterator[Event]:
        yield from thought(THOUGHTS, 0.3)
        yield from told(body, [record(9, [" so"], ".")], pause=0.3)

    return streamed(events())


def send(page: Page, text: str) -> None:
    """Send a message, and do not wait."""
    page.locator("#prompt").fill(text)
    page.locator("#run").click()


def test_thinking_is_open_while_it_comes_and_folds_when_the_answer_does(
    page: Page, mock: MockServer
) -> None:
    mock.answer = slow
    visit(page, mock.url, "chat")
    send(page, "one")
    box = page.locator(".lane .thinking")
    expect(box.locator(".thoughts em")).to_have_text("see")
    expect(box.locator(".thoughts")).to_be_visible()
    expect(box.locator("summary")).to_have_text("Thinking…")
    assert "Waiting" not in page.locator(".lane .prose").evaluate(
        "e => getComputedStyle(e, '::before').content"
    )
    expect(page.locator(".lane .prose")).to_have_text("so.")
    expect(box.locator(".thoughts")).to_be_hidden()
    expect(box.locator("summary")).to_have_text(re.compile(r"^Thought for ([\d.]+ s|\d+ ms)$"))
    box.locator("summary").click()
    expect(box.locator(".thoughts")).to_contain_text("<img src=x")
    assert page.locator("main img").count() == 0


def test_who_opens_it_has_the_last_word(page: Page, mock: MockServer) -> None:
    mock.answer = slow
    visit(page, mock.url, "chat")
    send(page, "one")
    box = page.locator(".lane .thinking")
    expect(box.locator(".thoughts")).to_be_visible()
    box.locator("summary").press("Enter")
    expect(box.locator(".thoughts")).to_be_hidden()
    expect(box.locator(".thoughts")).to_contain_text("img")
    expect(box.locator(".thoughts")).to_be_hidden()
    box.locator("summary").press("Enter")
    expect(page.locator(DONE)).to_be_attached()
    expect(page.locator(".lane .prose")).to_have_text("so.")
    expect(box.locator(".thoughts")).to_be_visible()


def test_thinking_is_kept_in_the_list_and_not_sent_back(page: Page, mock: MockServer) -> None:
    mock.answer = answering
    visit(page, mock.url, "chat")
    for text in ("one", "two"):
        page.locator("#prompt").fill(text)
        run(page)
    assert mock.bodies[1]["messages"][1] == {"role": "assistant", "content": " so."}
    for _ in range(2):
        earlier = page.locator("#history .thinking").first
        expect(earlier.locator("summary")).to_have_text(re.compile("^Thought for"))
        expect(earlier.locator(".thoughts")).to_be_hidden()
        earlier.locator("summary").click()
        expect(earlier.locator(".thoughts em")).to_have_text("see")
        page.reload()
        expect(page.locator("html[data-ready]")).to_be_attached()


def test_its_tokens_have_trees_like_all_others(page: Page, mock: MockServer) -> None:
    mock.answer = answering
    visit(page, mock.url, "chat")
    page.locator("#prompt").fill("one")
    run(page)
    view(page, "Tokens")
    expect(page.locator(".lane .thinking")).to_be_hidden()
    expect(page.locator(".lane .text")).to_have_text(
        "".join([*THOUGHTS, " so."]), use_inner_text=False
    )
    expect(page.locator(".lane .token.control")).to_have_count(0)
    page.locator(".lane .token").nth(1).click()
    expect(page.locator("#inspector h2")).to_contain_text("Iteration 2 of 4")
    page.locator("#prompt").fill("two")
    run(page)
    expect(page.locator("#history .thinking")).to_be_hidden()
    expect(page.locator("#history .token")).to_have_count(5)


def test_a_text_that_ends_within_the_thinking_says_so(page: Page, mock: MockServer) -> None:
    mock.answer = lambda body: streamed([*thought(THOUGHTS), *told(body, [record(3, [], "")])])
    visit(page, mock.url, "chat")
    page.locator("#prompt").fill("one")
    run(page)
    expect(page.locator(".lane .thoughts")).to_be_visible()
    expect(page.locator(".lane .foot")).to_contain_text("ended before the thinking did")
    expect(page.locator("#history .said")).to_have_text(["one"])


def calling(body: Body) -> Response:
    """Thinking, then a call; when its result is there, an answer."""
    if body["messages"][-1]["role"] == "tool":
        return answering(body)
    call = {"index": 0, "id": "c", "function": {"name": "weather", "arguments": "{}"}}
    deltas: list[dict[str, Any]] = [{"reasoning_content": "I must ask."}, {"tool_calls": [call]}]
    parts: list[Event] = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    return streamed([*parts, "data: [DONE]\n\n"])


@pytest.mark.parametrize("takes", [True, False], ids=["takes it", "does not"])
def test_what_led_to_a_call_goes_back_with_its_result_where_the_server_takes_it(
    page: Page, mock: MockServer, takes: bool
) -> None:
    mock.fields, mock.answer, mock.takes_thoughts = CALLS, calling, takes
    visit(page, mock.url, "chat")
    page.locator("#prompt").fill("one")
    run(page)
    page.get_by_label("Result of weather").fill("18 °C")
    page.keyboard.press("Enter")
    expect(page.locator(".lane .prose")).to_have_text("so.")
    expect(page.locator(DONE)).to_be_attached()
    assert mock.bodies[1]["messages"][1].get("reasoning_content") == (
        "I must ask." if takes else None
    )
    page.locator("#prompt").fill("two")
    run(page)
    assert not any("reasoning_content" in one for one in mock.bodies[2]["messages"])

"""The page against a server that says odd things: failures, HTML, slow and long streams."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import Response
from playwright.sync_api import Page, expect
from support.mock_server import (
    Body,
    Event,
    MockServer,
    chunk,
    record,
    refusal,
    story,
    streamed,
    told,
)
from support.steps import DONE, chat, race, run, view, visit

pytestmark = pytest.mark.browser
pytest_plugins = ["support.browsing"]

NASTY = "<img src=x onerror=\"document.title='hacked'\"><script>document.title='hacked'</script>"


def cut_stream(body: Body) -> Response:
    return streamed([chunk(body, "half", mtad={"trace": record(0, [" half"], None)})])


def failing_stream(body: Body) -> Response:
    error = {"message": "a model failed", "type": "server_error", "param": None, "code": None}
    first = chunk(body, "half", mtad={"trace": record(0, [" half"], None)})
    return streamed([first, {"error": error}])


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda body: refusal(400, "top_k is -1; it must be >= 0", "top_k"), "top_k is -1"),
        (lambda body: refusal(429, "the queue is full", **{"Retry-After": "7"}), "again in 7 s"),
        (lambda body: refusal(429, "the queue is full"), "Try again soon"),
        (lambda body: Response("<h1>no</h1>", 502), "Bad Gateway (502)"),
        (failing_stream, "a model failed"),
        (cut_stream, "The connection ended before the text did."),
        (lambda body: streamed(["data: {not json}\n\n"]), "not JSON"),
    ],
)
def test_an_error_is_shown_and_the_page_goes_on(
    page: Page, mock: MockServer, answer: Any, said: str
) -> None:
    good, mock.answer = mock.answer, answer
    visit(page, mock.url)
    run(page)
    expect(page.locator(".lane").get_by_role("alert")).to_contain_text(said)
    mock.answer = good
    run(page)
    expect(page.locator(".lane").get_by_role("alert")).to_be_hidden()
    expect(page.locator(".text .token").first).to_be_visible()


def test_a_server_that_is_gone(page: Page, mock: MockServer) -> None:
    visit(page, mock.url)
    page.route("**/v1/completions", lambda route: route.abort())
    run(page)
    expect(page.locator(".lane").get_by_role("alert")).to_contain_text("cannot be reached")


def test_a_server_with_keys_gets_one_from_the_tab_alone(page: Page, mock: MockServer) -> None:
    mock.key = "secret"
    visit(page, mock.url)
    expect(page.locator("#notice")).to_contain_text("401")
    expect(page.locator("#key")).to_be_focused()
    page.keyboard.type("secret")
    page.keyboard.press("Enter")
    expect(page.locator("#notice")).to_be_hidden()
    page.keyboard.press("Escape")
    run(page)
    expect(page.locator(".text .token").first).to_be_visible()
    stored = page.evaluate("[JSON.stringify(localStorage), sessionStorage.getItem('mtad-key')]")
    assert "secret" not in stored[0]
    assert stored[1] == "secret"


def test_html_is_never_run(page: Page, mock: MockServer) -> None:
    def answer(body: Body) -> Response:
        rows = [record(0, [NASTY, " a"], NASTY, [NASTY]), record(3, [], " b", [NASTY])]
        events = list(told(body, rows))
        events[-3]["mtad"] |= {"rule": NASTY}  # type: ignore[index,operator]
        return streamed(events)

    mock.answer = answer
    visit(page, mock.url)
    chat(page)
    page.locator("#prompt").fill(NASTY)
    run(page)
    expect(page.locator(".lane .prose")).to_contain_text(NASTY)
    view(page, "Tokens")
    page.get_by_label("Show rejected drafts").check()
    page.locator(".text .token").first.click()
    page.get_by_text("As a table").click()
    expect(page.locator("#tip")).to_contain_text("<img·src=x")
    expect(page.locator(".text s").first).to_have_text(NASTY)
    expect(page.locator(".rule")).to_have_text(NASTY)
    expect(page.locator("#history .user .said")).to_have_text(NASTY)
    page.locator("#prompt").fill("go on")
    run(page)
    expect(page.locator("#history .assistant .said")).to_contain_text(NASTY)
    assert page.locator("main img, main script").count() == 0
    assert page.title() == "mtad playground"


def test_html_in_an_error_is_never_run(page: Page, mock: MockServer) -> None:
    mock.answer = lambda body: refusal(400, NASTY)
    visit(page, mock.url)
    run(page)
    expect(page.locator(".lane").get_by_role("alert")).to_contain_text(NASTY)
    assert page.locator("main img").count() == 0
    assert page.title() == "mtad playground"


@pytest.mark.parametrize("way", ["button", "Escape"])
def test_stop_ends_a_slow_stream_and_keeps_what_came(
    page: Page, mock: MockServer, way: str
) -> None:
    mock.answer = lambda body: streamed(told(body, story(400), pause=0.05))
    visit(page, mock.url)
    page.get_by_role("button", name="Run").click()
    expect(page.locator(".text .token").nth(5)).to_be_visible()
    if way == "button":
        page.get_by_role("button", name="Stop").click()
    else:
        page.keyboard.press("Escape")
    expect(page.locator(DONE)).to_be_attached()
    expect(page.locator(".lane").get_by_role("alert")).to_have_text("Stopped.")
    assert 5 < page.locator(".text .token").count() < 400
    expect(page.get_by_role("button", name="Stop")).to_be_hidden()


def test_a_stopped_answer_stays_with_its_question(page: Page, mock: MockServer) -> None:
    mock.answer = lambda body: streamed(told(body, story(400), pause=0.05))
    visit(page, mock.url)
    chat(page)
    page.locator("#prompt").fill("hello")
    page.locator("#run").click()
    expect(page.locator(".lane .prose")).not_to_be_empty()
    page.keyboard.press("Escape")
    expect(page.locator(DONE)).to_be_attached()
    expect(page.locator("#history li .said")).to_have_text(["hello"])
    expect(page.locator(".lane .prose")).not_to_be_empty()
    expect(page.get_by_role("button", name="Regenerate")).to_be_visible()


@pytest.mark.parametrize("again", [False, True], ids=["a first question", "an answer asked again"])
def test_a_question_without_an_answer_is_not_lost(
    page: Page, mock: MockServer, again: bool
) -> None:
    good = mock.answer
    visit(page, mock.url)
    chat(page)
    page.locator("#prompt").fill("hello")
    if again:
        run(page)
    mock.answer = lambda body: refusal(429, "the queue is full")
    if again:
        page.get_by_role("button", name="Regenerate").click()
        expect(page.locator(DONE)).to_be_attached()
    else:
        run(page)
    expect(page.locator(".lane").get_by_role("alert")).to_contain_text("the queue is full")
    expect(page.locator("#prompt")).to_have_value("" if again else "hello")
    expect(page.locator("#history li")).to_have_count(2 if again else 0)
    mock.answer = good
    page.locator("#prompt").fill("hello")
    run(page)
    expect(page.locator(".lane .prose")).not_to_be_empty()
    assert len(mock.bodies[-1]["messages"]) == (3 if again else 1)


def test_events_may_be_split_anywhere(page: Page, mock: MockServer) -> None:
    def bytewise(body: Body) -> Iterator[Event]:
        rows = [record(0, [" ä"], " 語")]
        for event in told(body, rows):
            if isinstance(event, float):
                continue
            told_as = json.dumps(event, ensure_ascii=False)
            line = event if isinstance(event, str) else f"data: {told_as}\r\n\r\n"
            for byte in line.encode():  # letters of several bytes are split too
                yield bytes([byte])
                yield 0.001

    mock.answer = lambda body: streamed(bytewise(body))
    visit(page, mock.url)
    run(page)
    expect(page.locator(".text")).to_have_text("ä 語")
    expect(page.locator(".lane").get_by_role("alert")).to_be_hidden()


def test_a_server_without_traces_still_gives_its_text(page: Page, mock: MockServer) -> None:
    def answer(body: Body) -> Response:
        if body["trace"]:
            return refusal(400, "trace: this server gives none", "trace")
        events = [e for e in told(body, story(9)) if isinstance(e, dict)]
        plain = [{k: v for k, v in e.items() if k != "mtad" or "trace" not in v} for e in events]
        return streamed([*plain, "data: [DONE]\n\n"])

    mock.answer = answer
    visit(page, mock.url)
    run(page)
    expected = "".join(t["text"] for one in story(9) for t in one["tokens"])
    assert page.locator(".text").text_content() == expected
    expect(page.locator(".text .token")).to_have_count(0)
    assert [body["trace"] for body in mock.bodies] == [True, False]


def test_a_long_text_is_only_ever_added_to(page: Page, mock: MockServer) -> None:
    mock.answer = lambda body: streamed(told(body, story(1000)))
    visit(page, mock.url)
    page.evaluate(
        """() => {
            window.removed = 0;
            new MutationObserver((all) => {
                for (const one of all) window.removed += one.removedNodes.length;
            }).observe(document.querySelector(".text"), { childList: true });
        }"""
    )
    run(page)
    expect(page.locator(".text .token")).to_have_count(1000)
    assert page.evaluate("window.removed") == 0
    box = page.locator(".text").evaluate("e => [e.scrollTop + e.clientHeight, e.scrollHeight]")
    assert box[0] == pytest.approx(box[1], abs=10), "the newest text is in sight"


def test_the_request_says_what_the_form_says(page: Page, mock: MockServer) -> None:
    visit(page, mock.url)
    page.locator("#prompt").fill("SQL:")
    for name, value in [("temperature", "0.5"), ("top_k", "3"), ("top_p", "0.8"), ("seed", "7")]:
        page.locator(f"#{name}").fill(value)
    page.locator("#max_tokens").fill("33")
    page.locator("#method-A").select_option("mcss")
    page.get_by_text("Options", exact=True).click()
    page.locator("#A-k_config").fill("3,1")
    run(page)
    assert mock.bodies == [
        {
            "model": "mock-pair",
            "prompt": "SQL:",
            "temperature": 0.5,
            "top_k": 3,
            "top_p": 0.8,
            "max_tokens": 33,
            "seed": 7,
            "method": {"name": "mcss", "k_config": [3, 1]},
            "stream": True,
            "stream_options": {"include_usage": True},
            "trace": True,
        }
    ]


def test_an_impossible_number_is_not_sent(page: Page, mock: MockServer) -> None:
    visit(page, mock.url)
    page.locator("#max_tokens").fill("0")
    page.get_by_role("button", name="Run").click()
    expect(page.locator("#max_tokens")).to_be_focused()
    assert mock.bodies == []


def test_two_requests_race_at_once(page: Page, mock: MockServer) -> None:
    both = threading.Barrier(2, timeout=15)

    def events(body: Body) -> Iterator[Event]:
        both.wait()  # neither is answered before both are asked
        if body["method"]["name"] == "mtad":
            yield 0.4
        yield from told(body, story(20))

    mock.answer = lambda body: streamed(events(body))
    visit(page, mock.url)
    race(page)
    run(page)
    expect(page.locator(".lane")).to_have_count(2)
    slow, fast = page.locator(".lane").nth(0), page.locator(".lane").nth(1)
    expect(fast.locator(".mark")).to_contain_text("first")
    expect(slow.locator(".mark")).to_contain_text("+")
    expect(slow.locator(".badge")).to_have_text("lossy · threshold 0.5")
    expect(fast.locator(".badge")).to_have_text("lossless")
    expect(slow.locator(".energy")).to_have_text("12.3")
    expect(fast.locator(".energy")).to_have_text("not metered")
    first, second = mock.bodies
    assert {b["method"]["name"] for b in mock.bodies} == {"mtad", "speculative_sampling"}
    assert {**first, "method": None} == {**second, "method": None}


def test_one_lane_may_fail_alone(page: Page, mock: MockServer) -> None:
    def answer(body: Body) -> Response:
        if body["method"]["name"] == "mtad":
            return refusal(400, "mtad does not honour top_k")
        return streamed(told(body, story(20)))

    mock.answer = answer
    visit(page, mock.url)
    race(page)
    run(page)
    expect(page.locator(".lane").nth(0).get_by_role("alert")).to_contain_text("does not honour")
    expect(page.locator(".lane").nth(1).locator(".mark")).to_contain_text("first")
    expect(page.locator("#status")).to_contain_text("A did not finish. B is done")


def test_a_chat_goes_on_with_the_answer_that_was_chosen(page: Page, mock: MockServer) -> None:
    def answer(body: Body) -> Response:
        return streamed(told(body, [record(0, [], body["method"]["name"])]))

    mock.answer = answer
    visit(page, mock.url)
    chat(page)
    race(page)
    page.locator("#prompt").fill("one")
    run(page)
    expect(page.locator("#prompt")).to_have_value("")
    expect(page.locator(".lane .prose")).to_have_text(["mtad", "speculative_sampling"])
    page.get_by_role("button", name="Go on with this answer").nth(1).click()
    page.locator("#prompt").fill("two")
    run(page)
    assert mock.bodies[-1]["messages"] == [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "speculative_sampling"},
        {"role": "user", "content": "two"},
    ]
    expect(page.locator("#history .assistant .said")).to_have_text("speculative_sampling")
    page.get_by_role("button", name="New chat").click()
    expect(page.locator("#history li")).to_have_count(0)
    expect(page.locator("#lanes")).to_be_hidden()


def test_an_empty_message_is_not_sent(page: Page, mock: MockServer) -> None:
    visit(page, mock.url)
    chat(page)
    page.locator("#prompt").fill("  ")
    page.get_by_role("button", name="Send").click()
    expect(page.locator("#notice")).to_have_text("Write a message first.")
    assert mock.bodies == []

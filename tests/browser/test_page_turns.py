"""Turns of a chat: rewritten, looked at as tokens, shaped by a schema, and with calls of tools."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import Response
from playwright.sync_api import Page, expect
from support.mock_server import (
    CALLS,
    Body,
    Event,
    MockServer,
    record,
    refusal,
    story,
    streamed,
    told,
)
from support.steps import DONE, race, run, view, visit

pytestmark = pytest.mark.browser
pytest_plugins = ["support.browsing"]

NASTY = "<img src=x onerror=\"document.title='hacked'\">"


def numbered(body: Body) -> Response:
    """An answer that says how many messages it was asked with."""
    return streamed(told(body, [record(0, [" after"], f" {len(body['messages'])}")]))


def say(page: Page, text: str) -> None:
    """Send a message and wait for the answer."""
    page.locator("#prompt").fill(text)
    run(page)


def two_turns(page: Page, mock: MockServer) -> None:
    """A chat of two questions."""
    mock.answer = numbered
    visit(page, mock.url, "chat")
    say(page, "one")
    say(page, "two")


def rewrite(page: Page, number: int, text: str) -> None:
    """Give an earlier message another text, and leave the field open."""
    item = page.locator("#history li").nth(number)
    item.hover()
    item.get_by_role("button", name="Edit").click()
    page.get_by_label("Edit the message").fill(text)


def contents(mock: MockServer) -> list[str]:
    """What the last request said."""
    return [message["content"] for message in mock.bodies[-1]["messages"]]


# ---- rewriting


def test_a_rewritten_question_is_asked_in_its_place(page: Page, mock: MockServer) -> None:
    two_turns(page, mock)
    rewrite(page, 0, "one, better")
    page.locator("#prompt").evaluate("e => (e.value = 'not sent yet')")
    page.locator(".editor").get_by_role("button", name="Send").click()
    expect(page.locator(".lane .prose")).to_have_text("after 1")
    expect(page.locator(DONE)).to_be_attached()
    assert contents(mock) == ["one, better"]
    expect(page.locator("#history .said")).to_have_text(["one, better"])
    expect(page.locator("#prompt")).to_have_value("not sent yet")


def test_enter_sends_what_was_rewritten_and_escape_leaves_it(page: Page, mock: MockServer) -> None:
    two_turns(page, mock)
    rewrite(page, 0, "never")
    page.keyboard.press("Escape")
    expect(page.locator("#history .said").first).to_have_text("one")
    rewrite(page, 0, "a")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("b")
    page.keyboard.press("Enter")
    expect(page.locator(".lane .prose")).to_have_text("after 1")
    assert contents(mock) == ["a\nb"]
    assert len(mock.bodies) == 3


def test_a_rewritten_question_without_an_answer_is_not_lost(page: Page, mock: MockServer) -> None:
    two_turns(page, mock)
    mock.answer = lambda body: refusal(429, "the queue is full")
    rewrite(page, 0, "one, better")
    page.keyboard.press("Enter")
    expect(page.locator(".lane").get_by_role("alert")).to_contain_text("the queue is full")
    expect(page.locator("#history .said")).to_have_text(["one", "after 1", "two", "after 3"])
    expect(page.locator("#prompt")).to_have_value("one, better")


def test_rewriting_a_question_stops_what_runs(page: Page, mock: MockServer) -> None:
    mock.answer = lambda body: streamed(told(body, story(400), pause=0.05))
    visit(page, mock.url, "chat")
    page.locator("#prompt").fill("one")
    page.locator("#run").click()
    expect(page.locator(".lane .prose")).not_to_be_empty()
    mock.answer = numbered
    rewrite(page, 0, "another")
    page.keyboard.press("Enter")
    expect(page.locator(".lane .prose")).to_have_text("after 1")
    assert contents(mock) == ["another"]


def test_rewritten_answers_go_to_the_model(page: Page, mock: MockServer) -> None:
    two_turns(page, mock)
    rewrite(page, 1, "An *earlier* answer")
    page.locator(".editor").get_by_role("button", name="Save").click()
    expect(page.locator("#history .prose em")).to_have_text("earlier")
    expect(page.locator(".lane .prose")).to_have_text("after 3")
    page.locator(".lane").get_by_role("button", name="Edit").click()
    expect(page.locator("#lanes")).to_be_hidden()
    expect(page.get_by_label("Edit the message")).to_be_focused()
    page.get_by_label("Edit the message").fill("The newest")
    page.keyboard.press("Enter")
    assert len(mock.bodies) == 2, "saving asks for nothing"
    say(page, "three")
    assert contents(mock) == ["one", "An *earlier* answer", "two", "The newest", "three"]


# ---- tokens of earlier answers


def test_earlier_answers_have_their_tokens_and_trees(page: Page, mock: MockServer) -> None:
    rows = iter([[record(0, [" a"], " b", [" x"]), record(2, [" c"], " d")], [record(0, [], " z")]])
    mock.answer = lambda body: streamed(told(body, next(rows)))
    visit(page, mock.url, "chat")
    say(page, "one")
    say(page, "two")
    expect(page.locator("#history .token")).to_have_count(0)
    view(page, "Tokens")
    earlier = page.locator("#history .token")
    assert earlier.all_text_contents() == [" a", " b", " c", " d"]
    expect(page.locator("#history .prose")).to_be_hidden()
    earlier.nth(2).click()
    expect(page.locator("#history #inspector h2")).to_have_text(
        "Iteration 2 of 2: 1 of 1 drafts accepted"
    )
    page.get_by_label("Show rejected drafts").check()
    expect(page.locator("#history s")).to_have_text([" x"])
    page.locator(".lane .token").first.click()
    expect(page.locator("#history #inspector")).to_have_count(0)
    expect(page.locator(".lane #inspector h2")).to_contain_text("Iteration 1 of 1")
    view(page, "Formatted")
    expect(page.locator("#history .prose")).to_have_text("a b c d")


def test_a_tree_survives_the_next_question(page: Page, mock: MockServer) -> None:
    two_turns(page, mock)
    view(page, "Tokens")
    page.locator("#history .token").first.click()
    expect(page.locator("#history #inspector")).to_be_visible()
    say(page, "three")
    expect(page.locator(".lane #inspector svg.tree")).to_be_visible()


def test_the_tree_of_two_stands_below_both(page: Page, mock: MockServer) -> None:
    mock.answer = numbered
    visit(page, mock.url, "chat")
    race(page)
    view(page, "Tokens")
    say(page, "one")
    expect(page.locator(".lane #inspector")).to_have_count(0)
    expect(page.locator("#lanes + #inspector svg.tree")).to_be_visible()


# ---- schemas


def test_a_server_without_schemas_and_tools_is_asked_for_none(page: Page, mock: MockServer) -> None:
    visit(page, mock.url, "chat")
    expect(page.get_by_text("Schema and tools")).to_be_hidden()
    say(page, "one")
    assert not {"response_format", "tools"} & set(mock.bodies[0])


def test_a_schema_is_sent_and_its_answer_is_code(page: Page, mock: MockServer) -> None:
    mock.fields = CALLS
    mock.answer = lambda body: streamed(told(body, [record(0, ['{"a"'], ": 1}")]))
    visit(page, mock.url, "chat")
    page.get_by_label("JSON schema of the answer", exact=True).fill('{"type": "object"}')
    say(page, "one")
    assert mock.bodies[0]["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": True},
    }
    assert "tools" not in mock.bodies[0]
    expect(page.locator(".lane .prose .code-attr")).to_have_text('"a"')
    expect(page.locator(".lane .prose pre")).to_have_text('{\n  "a": 1\n}')
    say(page, "two")
    expect(page.locator("#history .prose .code-attr")).to_have_text('"a"')
    assert contents(mock)[1] == '{"a": 1}'


@pytest.mark.parametrize(
    ("field", "text", "said"),
    [
        ("schema", "{no", "This is not JSON"),
        ("schema", "[]", "This must be a JSON object."),
        ("schema", "3", "This must be a JSON object."),
        ("tools", "{}", "This must be a JSON list."),
    ],
)
def test_what_is_no_schema_is_not_sent(
    page: Page, mock: MockServer, field: str, text: str, said: str
) -> None:
    mock.fields = CALLS
    visit(page, mock.url, "chat")
    page.locator(f"#{field}").fill(text)
    page.locator("#prompt").fill("one")
    page.locator("#run").click()
    expect(page.locator(f"#{field}")).to_be_focused()
    assert said in str(page.locator(f"#{field}").evaluate("e => e.validationMessage"))
    assert mock.bodies == []
    page.get_by_label("Prompt", exact=True).first.check()
    page.locator("#run").click()  # prompts have no schema, so nothing is wrong
    expect(page.locator(".lane .token").first).to_be_visible()
    assert not {"response_format", "tools"} & set(mock.bodies[0])


@pytest.mark.parametrize("field", ["JSON schema of the answer", "Tools, a JSON list"])
def test_examples_can_be_sent(page: Page, mock: MockServer, field: str) -> None:
    mock.fields = CALLS
    visit(page, mock.url, "chat")
    page.get_by_role("button", name=f"Example: {field}").click()
    say(page, "one")
    sent = mock.bodies[0]
    if "tools" in sent:
        assert sent["tools"][0]["function"]["parameters"]["type"] == "object"
    else:
        assert sent["response_format"]["json_schema"]["schema"]["type"] == "object"


# ---- tools


def calling(*calls: tuple[str, dict[str, Any]], said: str = "") -> Any:
    """An answer that calls tools, in pieces."""

    def events(body: Body) -> Iterator[Event]:
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": said}]
        for index, (name, given) in enumerate(calls):
            text = json.dumps(given)
            first = {"id": f"call-{index}", "type": "function"}
            deltas.append({"tool_calls": [{"index": index, **first, "function": {"name": name}}]})
            for part in (text[:5], text[5:]):
                deltas.append({"tool_calls": [{"index": index, "function": {"arguments": part}}]})
        for delta in deltas:
            yield {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
        yield {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}
        yield "data: [DONE]\n\n"

    return lambda body: streamed(events(body))


def test_calls_are_shown_and_answered(page: Page, mock: MockServer) -> None:
    mock.fields = CALLS
    mock.answer = calling(("weather", {"city": "Paris"}), ("time", {"zone": NASTY}))
    visit(page, mock.url, "chat")
    page.get_by_role("button", name="Example: Tools").click()
    say(page, "one")
    cards = page.locator(".lane .call")
    expect(cards).to_have_count(2)
    expect(cards.first).to_contain_text("Calls weather")
    shown = cards.nth(1).locator("pre").text_content() or ""
    assert json.loads(shown) == {"zone": NASTY}
    assert page.locator("main img").count() == 0
    mock.answer = numbered
    page.get_by_label("Result of weather").fill("18 °C")
    page.get_by_label("Result of time").fill(NASTY)
    page.keyboard.press("Enter")
    expect(page.locator(".lane .prose")).to_have_text("after 4")
    question, answer, *results = mock.bodies[-1]["messages"]
    assert question == {"role": "user", "content": "one"}
    assert answer["role"] == "assistant" and answer["content"] == ""
    assert [one["function"]["name"] for one in answer["tool_calls"]] == ["weather", "time"]
    assert json.loads(answer["tool_calls"][0]["function"]["arguments"]) == {"city": "Paris"}
    assert results == [
        {"role": "tool", "content": "18 °C", "tool_call_id": "call-0"},
        {"role": "tool", "content": NASTY, "tool_call_id": "call-1"},
    ]
    expect(page.locator("#history .call")).to_have_count(2)
    expect(page.locator("#history .tool .said")).to_have_text(["18 °C", NASTY])
    assert page.locator("main img").count() == 0
    assert page.title() == "mtad playground"


def test_what_is_indented_says_the_same(page: Page, mock: MockServer) -> None:
    given = '{"a":[1,{},[ ]],"b":12345678901234567890, "c" : 1.0,"d":"x, [{:\\"}]","e":""}'
    call = {"index": 0, "id": "c", "function": {"name": "weather", "arguments": given}}
    events = [{"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]}, "data: [DONE]\n\n"]
    mock.answer = lambda body: streamed(events)
    visit(page, mock.url, "chat")
    say(page, "one")
    shown = page.locator(".lane .call pre").text_content() or ""
    as_written = [*map(str.strip, shown.splitlines())]
    assert as_written == [
        *("{", '"a": [', "1,", "{},", "[]", "],", '"b": 12345678901234567890,', '"c": 1.0,'),
        *('"d": "x, [{:\\"}]",', '"e": ""', "}"),
    ]


def test_calls_that_broke_off_are_not_sent_back(page: Page, mock: MockServer) -> None:
    mock.fields = CALLS

    def broken(body: Body) -> Response:
        call = {"index": 0, "id": "c", "function": {"name": "weather", "arguments": '{"ci'}}
        delta = {"content": "Let me see.", "tool_calls": [call]}
        return streamed([{"choices": [{"index": 0, "delta": delta}]}])

    mock.answer = broken
    visit(page, mock.url, "chat")
    say(page, "one")
    expect(page.locator(".lane").get_by_role("alert")).to_contain_text("ended before the text did")
    expect(page.locator(".lane .call pre")).to_have_text('{"ci')
    expect(page.get_by_role("button", name="Send results")).to_have_count(0)
    mock.answer = numbered
    say(page, "two")
    assert mock.bodies[-1]["messages"][1] == {"role": "assistant", "content": "Let me see."}

"""OpenAI's client for JavaScript: chats, completions, parsed answers, tools and Responses."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.calling.calling import QUESTION
from support.client_checks import check_place
from support.clients import CHAT, expected, is_answer, is_completion, is_conversation, is_event

pytestmark = pytest.mark.clients


@pytest.mark.call("models")
def test_models(got: Any) -> None:
    assert got == ["demo", "gpt-4o-mini"]


@pytest.mark.call("chat")
def test_chat(got: Any) -> None:
    is_answer(got)


@pytest.mark.call("streamed chat")
def test_streamed_chat(got: Any) -> None:
    text, usage = got
    assert text == expected(CHAT)
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 0


@pytest.mark.call("streamed chat (.stream)")
def test_stream_helper(got: Any) -> None:
    assert got == [expected(CHAT)] * 2


@pytest.mark.call("completion")
def test_completion(got: Any) -> None:
    is_completion(got)


@pytest.mark.call("structured output (.parse)")
def test_parse(got: Any) -> None:
    event, text = got
    is_event(event)
    assert json.loads(text) == event


@pytest.mark.call("streamed structured output (.stream)")
def test_streamed_parse(got: Any) -> None:
    num_deltas, event, text = got
    is_event(event)
    assert json.loads(text) == event
    assert num_deltas > 1


@pytest.mark.call("tools")
def test_tools(got: Any) -> None:
    reason, calls, role = got
    assert (reason, role) == ("tool_calls", "assistant")
    check_calls(calls)


@pytest.mark.call("streamed tool calls")
def test_streamed_tools(got: Any) -> None:
    name, arguments, num_pieces, reason = got
    assert (name, reason) == ("weather", "tool_calls")
    check_place(json.loads(arguments))
    assert num_pieces > 2


@pytest.mark.call("tools that are run (.runTools)")
def test_run_tools(got: Any) -> None:
    check_run(got)


@pytest.mark.call("streamed tools that are run (.runTools)")
def test_streamed_run_tools(got: Any) -> None:
    check_run(got)


@pytest.mark.call("Responses")
def test_responses(got: Any) -> None:
    is_answer(got)


@pytest.mark.call("conversation in Responses")
def test_conversation(got: Any) -> None:
    is_conversation(got)


@pytest.mark.call("streamed Responses (.stream)")
def test_streamed_responses(got: Any) -> None:
    assert got == [expected(CHAT)] * 2


@pytest.mark.call("structured Responses (.parse)")
def test_parsed_responses(got: Any) -> None:
    event, text = got
    is_event(event)
    assert json.loads(text) == event


@pytest.mark.call("tools in Responses (.parse)")
def test_tools_in_responses(got: Any) -> None:
    calls, kind = got
    check_calls(calls)
    assert kind in {"message", "function_call"}


def check_calls(calls: Any) -> None:
    """There are calls, and the client has parsed their arguments as they are."""
    assert calls
    for name, arguments, parsed in calls:
        assert name == "weather"
        assert json.loads(arguments) == parsed
        check_place(parsed)


def check_run(messages: Any) -> None:
    """Two calls, each followed by what the function returned."""
    question, *rest = messages
    assert question == ["user", QUESTION]
    assert [role for role, _ in rest] == ["assistant", "tool"] * 2
    for (_, [[name, arguments]]), (_, result) in (rest[:2], rest[2:]):
        place = json.loads(arguments)
        check_place(place)
        assert (name, result) == ("weather", f"{place['city']}: {place['days']} mm")

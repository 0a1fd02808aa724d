"""openai-python: chats, completions, parsed answers, tools and Responses."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.clients import CHAT, expected, is_answer, is_completion

pytestmark = pytest.mark.clients
CITIES = ({"city": "Oslo"}, {"city": "Rome"})


@pytest.mark.call("models")
def test_models(got: Any) -> None:
    assert got == ["demo", "gpt-4o-mini"]


@pytest.mark.call("chat")
def test_chat(got: Any) -> None:
    is_answer(got)


@pytest.mark.call("streamed chat")
def test_streamed_chat(got: Any) -> None:
    is_answer(got)


@pytest.mark.call("asynchronous chat")
def test_asynchronous_chat(got: Any) -> None:
    is_answer(got)


@pytest.mark.call("completion")
def test_completion(got: Any) -> None:
    is_completion(got)


@pytest.mark.call("structured output (.parse)")
def test_parse(got: Any) -> None:
    event, text = got
    assert json.loads(text) == event
    assert set(event) == {"name", "day", "guests"}


@pytest.mark.call("streamed structured output (.stream)")
def test_streamed_parse(got: Any) -> None:
    last, came, event, text = got
    assert (last, came) == ("content.done", True)
    assert json.loads(text) == event


@pytest.mark.call("tools")
def test_tools(got: Any) -> None:
    reason, calls, answer = got
    assert reason == "tool_calls"
    assert calls
    for name, arguments in calls:
        assert name == "weather"
        assert json.loads(arguments) in CITIES
    assert answer


@pytest.mark.call("streamed tool calls")
def test_streamed_tools(got: Any) -> None:
    name, arguments = got
    assert name == "weather"
    assert json.loads(arguments) in CITIES


@pytest.mark.call("tools from pydantic (.parse)")
def test_parsed_tools(got: Any) -> None:
    assert set(got) == {"Weather"}


@pytest.mark.call("Responses")
def test_responses(got: Any) -> None:
    text, status, is_found = got
    assert text == expected(CHAT)
    assert status in {"completed", "incomplete"}
    assert is_found


@pytest.mark.call("streamed Responses (.stream)")
def test_streamed_responses(got: Any) -> None:
    assert got == [expected(CHAT)] * 2


@pytest.mark.call("structured Responses (.parse)")
def test_parsed_responses(got: Any) -> None:
    event, text = got
    assert json.loads(text) == event


@pytest.mark.call("tools in Responses")
def test_tools_in_responses(got: Any) -> None:
    calls, status = got
    assert calls
    for name, arguments in calls:
        assert name == "weather"
        assert json.loads(arguments) in CITIES
    assert status in {"completed", "incomplete"}

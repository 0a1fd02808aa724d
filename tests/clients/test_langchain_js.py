"""LangChain for JavaScript through chats and Responses."""

from __future__ import annotations

from typing import Any

import pytest
from support.calling.calling import QUESTION
from support.client_checks import check_place
from support.clients import CHAT, expected, is_completion, is_event

pytestmark = pytest.mark.clients


@pytest.fixture
def both(got: Any) -> list[Any]:
    """What the call gave through each route."""
    assert list(got) == ["chat", "responses"]
    return list(got.values())


@pytest.mark.call("invoke")
def test_invoke(both: list[Any]) -> None:
    for text, num_input, num_output in both:
        assert text == expected(CHAT)
        assert min(num_input, num_output) > 0


@pytest.mark.call("stream")
def test_stream(both: list[Any]) -> None:
    for text, num_input, num_output in both:
        assert text == expected(CHAT)
        assert min(num_input, num_output) > 0


@pytest.mark.call("batch")
def test_batch(both: list[Any]) -> None:
    assert both == [[expected(CHAT)] * 2] * 2


@pytest.mark.call("withStructuredOutput")
def test_structured(both: list[Any]) -> None:
    for event in both:
        is_event(event)


@pytest.mark.call("withStructuredOutput (functionCalling)")
def test_structured_by_calls(both: list[Any]) -> None:
    for event in both:
        is_event(event)


@pytest.mark.call("bindTools")
def test_tools(both: list[Any]) -> None:
    for question, called, result, answer in both:
        assert question == ["human", [], QUESTION]
        [place] = called[1]
        check_place(place)
        assert result == ["tool", [], f"{place['city']}: {place['days']} mm"]
        assert answer[0] == "ai"


@pytest.mark.call("streamed tool calls")
def test_streamed_tools(both: list[Any]) -> None:
    for [[name, place]] in both:
        assert name == "weather"
        check_place(place)


@pytest.mark.call("agent")
def test_agent(both: list[Any]) -> None:
    for question, answer, *_ in both:
        assert question == ["human", [], QUESTION]
        assert answer[0] == "ai"
        assert answer[1] or answer[2]
    assert both[0] == both[1]


@pytest.mark.call("agent with a structured response")
def test_structured_agent(both: list[Any]) -> None:
    for event in both:
        is_event(event)


@pytest.mark.call("agent with tools and a structured response")
def test_structured_agent_with_tools(both: list[Any]) -> None:
    for [question, *rest], event in both:
        assert question == ["human", [], QUESTION]
        places = [place for kind, calls, _ in rest if kind == "ai" for place in calls]
        for place in places:
            check_place(place)
        results = [f"{place['city']}: {place['days']} mm" for place in places]
        assert [text for kind, _, text in rest if kind == "tool"] == results
        if event is None:
            assert places
        else:
            is_event(event)


@pytest.mark.call("completion")
def test_completion(got: Any) -> None:
    is_completion(got)

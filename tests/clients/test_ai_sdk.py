"""Vercel's AI SDK through Responses, chats and its provider for compatible servers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.client_checks import check_place
from support.clients import CHAT, expected, is_event

pytestmark = pytest.mark.clients
PROVIDERS = ["responses", "chat", "compatible"]


@pytest.fixture
def each(got: Any) -> list[Any]:
    """What the call gave through each provider."""
    assert list(got) == PROVIDERS
    return list(got.values())


@pytest.mark.call("generateText")
def test_text(each: list[Any]) -> None:
    check_text(each)


@pytest.mark.call("streamText")
def test_streamed_text(each: list[Any]) -> None:
    check_text(each)


@pytest.mark.call("conversation")
def test_conversation(each: list[Any]) -> None:
    asked = [{"role": "system", "content": "Be brief."}, *CHAT]
    first = expected(asked)
    said = [{"role": "assistant", "content": first}, {"role": "user", "content": "Why?"}]
    assert each == [[first, expected([*asked, *said])]] * 3


@pytest.mark.call("generateObject")
def test_object(each: list[Any]) -> None:
    for event in each:
        is_event(event)


@pytest.mark.call("streamObject")
def test_streamed_object(each: list[Any]) -> None:
    for num_partial, event in each:
        is_event(event)
        assert num_partial > 1


@pytest.mark.call("generateText with Output.object")
def test_output(each: list[Any]) -> None:
    for event in each:
        is_event(event)


@pytest.mark.call("streamText with Output.object")
def test_streamed_output(each: list[Any]) -> None:
    for num_partial, event in each:
        is_event(event)
        assert num_partial > 1


@pytest.mark.call("Output.choice")
def test_choice(each: list[Any]) -> None:
    assert set(each) <= {"Oslo", "Rome"}


@pytest.mark.call("tools (toolChoice: required)")
def test_tools(each: list[Any]) -> None:
    for reason, [step] in each:
        assert reason == "tool-calls"
        check_step(step)


@pytest.mark.call("tools (toolChoice of one)")
def test_named_tool(each: list[Any]) -> None:
    for reason, [step] in each:
        assert reason == "tool-calls"
        check_step(step)


@pytest.mark.call("loop of tools (isStepCount)")
def test_loop(each: list[Any]) -> None:
    for steps in each:
        check_loop(steps)


@pytest.mark.call("streamed loop of tools")
def test_streamed_loop(each: list[Any]) -> None:
    for inputs, steps in each:
        check_loop(steps)
        made = [place for places, _ in steps for place in places]
        assert json.loads("[" + inputs.replace("}{", "},{") + "]") == made


@pytest.mark.call("tools beside Output.object")
def test_tools_beside_output(each: list[Any]) -> None:
    for steps, event in each:
        called = [step for step in steps if step[0]]
        for step in called:
            check_step(step)
        if event is None:
            assert called
        else:
            is_event(event)


def check_text(each: list[Any]) -> None:
    """The text is that of `generate`, with its usage."""
    for text, num_input, num_output, reason in each:
        assert (text, reason) == (expected(CHAT), "stop")
        assert min(num_input, num_output) > 0


def check_step(step: Any) -> None:
    """A step with calls, and what the tool returned to each."""
    places, results = step
    assert places
    for place in places:
        check_place(place)
    assert results == [{"city": p["city"], "millimetres": p["days"]} for p in places]


def check_loop(steps: Any) -> None:
    """Two steps that must call, and a third that may answer."""
    assert len(steps) == 3
    for step in steps[:2]:
        check_step(step)

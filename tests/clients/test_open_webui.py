"""The requests of Open WebUI's server: chats, its tasks, native tools and Responses."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.client_checks import check_place
from support.clients import CHAT, expected, is_conversation

pytestmark = pytest.mark.clients
BRIEF = [{"role": "system", "content": "Be brief."}, *CHAT]


@pytest.mark.call("list of models")
def test_models(got: Any) -> None:
    assert got == [["demo", "demo"], ["gpt-4o-mini", "gpt-4o-mini"]]


@pytest.mark.call("chat")
def test_chat(got: Any) -> None:
    text, calls, reason, usage = got
    assert (text, calls, reason) == (expected(BRIEF), [], "stop")
    check_usage(usage)


@pytest.mark.call("chat with parameters of the panel")
def test_parameters(got: Any) -> None:
    text, _, reason, _ = got
    assert (text, reason) == (expected(CHAT).split("Sat")[0], "stop")
    assert text != expected(CHAT)


@pytest.mark.call("chat in one piece")
def test_in_one_piece(got: Any) -> None:
    status, text, usage = got
    assert (status, text) == (200, expected(CHAT))
    check_usage(usage)


@pytest.mark.call("second turn")
def test_second_turn(got: Any) -> None:
    is_conversation(got)


@pytest.mark.call("title of a chat")
def test_title(got: Any) -> None:
    check_task(got)


@pytest.mark.call("tags of a chat")
def test_tags(got: Any) -> None:
    check_task(got)


@pytest.mark.call("questions that may follow")
def test_follow_ups(got: Any) -> None:
    check_task(got)


@pytest.mark.call("emoji of a message")
def test_emoji(got: Any) -> None:
    check_task(got, max_new_tokens=4)


@pytest.mark.call("native tools")
def test_tools(got: Any) -> None:
    text, calls, reason, usage = got
    assert bool(text) or bool(calls)
    assert reason in {"stop", "length", "tool_calls"}
    check_usage(usage)


@pytest.mark.call("native tools (with tool_choice as a custom parameter)")
def test_called_tools(got: Any) -> None:
    reason, name, arguments, end, usage = got
    assert (reason, name) == ("tool_calls", "weather")
    check_place(json.loads(arguments))
    assert end in {"stop", "length", "tool_calls"}
    check_usage(usage)


@pytest.mark.call("a request that is refused")
def test_refused(got: Any) -> None:
    status, message = got
    assert status == 404
    assert "demo" in message


@pytest.mark.call("Responses (if a connection is set to them)")
def test_responses(got: Any) -> None:
    text, done, usage = got
    assert text == done == expected(BRIEF)
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"] > 0


def check_usage(usage: Any) -> None:
    """There are figures, and they add up."""
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 0


def check_task(got: Any, **sampling: Any) -> None:
    """The text is that of `generate`."""
    asked, text = got
    assert text == expected([{"role": "user", "content": asked}], **sampling)

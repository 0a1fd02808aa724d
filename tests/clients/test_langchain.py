"""LangChain: models, structured output, tools, agents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support.clients import are_calls, call, is_answer, is_completion, is_event, is_loop

pytestmark = pytest.mark.clients


def is_object(got: Any) -> None:
    assert isinstance(got, dict)


CALLS = [
    call("chat (invoke)", is_answer),
    call("streamed chat (stream)", is_answer),
    call("asynchronous chat (ainvoke)", is_answer),
    call("several at once (batch)", is_answer),
    call("completion (OpenAI)", is_completion),
    call("Responses (use_responses_api)", is_answer),
    call("streamed Responses", is_answer),
    call("with_structured_output, json_schema", is_event),
    call("with_structured_output, function_calling", is_event),
    call("with_structured_output, json_mode", is_object),
    call("streamed with_structured_output", is_event),
    call("tools (bind_tools)", are_calls),
    call("strict tools (bind_tools)", are_calls),
    call("streamed tool calls", are_calls),
    call("tools in Responses", are_calls),
    call("agent (create_agent)", is_loop),
    call("agent with response_format", is_event),
]


@pytest.mark.parametrize("holds", CALLS)
def test_call(got: Any, holds: Callable[[Any], None]) -> None:
    holds(got)

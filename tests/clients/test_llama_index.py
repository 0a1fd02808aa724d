"""LlamaIndex: OpenAILike, and OpenAI with a name that it knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support.clients import are_calls, call, is_answer, is_completion, is_event, is_loop

pytestmark = pytest.mark.clients

CALLS = [
    call("chat", is_answer),
    call("streamed chat", is_answer),
    call("asynchronous chat", is_answer),
    call("complete, as a chat", is_answer),
    call("streamed complete, as a chat", is_answer),
    call("complete, as a completion", is_completion),
    call("chat with the class OpenAI", is_answer),
    call("Responses (OpenAIResponses)", is_answer),
    call("structured_predict", is_event),
    call("structured_predict with the class OpenAI", is_event),
    call("as_structured_llm", is_event),
    call("tools (chat_with_tools)", are_calls),
    call("tools that are run (predict_and_call)", are_calls),
    call("agent (FunctionAgent)", is_loop),
]


@pytest.mark.parametrize("holds", CALLS)
def test_call(got: Any, holds: Callable[[Any], None]) -> None:
    holds(got)

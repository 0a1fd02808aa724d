"""LiteLLM, and Anthropic's library through its proxy as docs/server.md sets it up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support.clients import are_calls, call, is_answer, is_completion, is_event, is_loop

pytestmark = pytest.mark.clients

CALLS = [
    call("completion, openai/", is_answer),
    call("completion, hosted_vllm/", is_answer),
    call("streamed completion", is_answer),
    call("asynchronous completion (acompletion)", is_answer),
    call("text_completion", is_completion),
    call("response_format from pydantic", is_event),
    call("tools", is_loop),
    call("streamed tool calls", are_calls),
    call("responses", is_answer),
    call("streamed responses", is_answer),
    call("proxy: OpenAI's library", is_answer),
    call("proxy: Anthropic's messages.create", is_answer),
    call("proxy: Anthropic's messages.stream", is_answer),
    call("proxy: Anthropic's tools", is_loop),
]


@pytest.mark.parametrize("holds", CALLS)
def test_call(got: Any, holds: Callable[[Any], None]) -> None:
    holds(got)

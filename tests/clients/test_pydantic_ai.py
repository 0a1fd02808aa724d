"""pydantic-ai: agents over chats and over Responses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support.clients import call, is_answer, is_conversation, is_event, is_loop

pytestmark = pytest.mark.clients

CALLS = [
    call("chat (run_sync)", is_answer),
    call("streamed chat (run_stream)", is_answer),
    call("conversation (message_history)", is_conversation),
    call("output_type, by a tool", is_event),
    call("output_type, NativeOutput", is_event),
    call("streamed output_type", is_event),
    call("agent with tools", is_loop),
    call("Responses", is_answer),
    call("streamed Responses", is_answer),
    call("output_type in Responses, by a tool", is_event),
    call("output_type in Responses, NativeOutput", is_event),
    call("agent with tools in Responses", is_loop),
]


@pytest.mark.parametrize("holds", CALLS)
def test_call(got: Any, holds: Callable[[Any], None]) -> None:
    holds(got)

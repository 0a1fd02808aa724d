"""simonw's llm: its command line, and its Python interface for tools."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support.calling.calling import CHAT
from support.clients import call, expected, is_answer, is_completion, is_conversation, is_event

pytestmark = pytest.mark.clients


def is_text(got: Any) -> None:
    """The tool is in the prompt, so that the text is another one than without."""
    assert got
    assert got != expected(CHAT)


def is_answered(got: Any) -> None:
    results, text = got
    assert results == ["4 mm of rain in Oslo"]
    assert text


CALLS = [
    call("prompt, streamed", is_answer),
    call("prompt (--no-stream)", is_answer),
    call("completion", is_completion),
    call("Responses", is_answer),
    call("conversation (-c)", is_conversation),
    call("schema (--schema)", is_event),
    call("schema from pydantic", is_event),
    call("tools offered (--functions)", is_text),
    call("results of tools, sent back", is_answered),
]


@pytest.mark.parametrize("holds", CALLS)
def test_call(got: Any, holds: Callable[[Any], None]) -> None:
    holds(got)

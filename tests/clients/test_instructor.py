"""instructor: objects in each of its modes for OpenAI."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support.clients import call, is_event

pytestmark = pytest.mark.clients
EMPTY = pytest.mark.xfail(
    strict=True,
    reason="the form that instructor sends requires no field, and the embedded model writes none",
)


def are_events(got: Any) -> None:
    assert got
    for event in got:
        is_event(event)


CALLS = [
    call("mode TOOLS", is_event),
    call("mode TOOLS_STRICT", is_event),
    call("mode JSON_SCHEMA", is_event),
    call("mode RESPONSES_TOOLS", is_event),
    call("from_provider", is_event),
    call("asynchronous", is_event),
    call("with the completion (create_with_completion)", is_event),
    call("partial objects, streamed (create_partial)", is_event),
    call("several objects, streamed (create_iterable)", are_events, EMPTY),
]


@pytest.mark.parametrize("holds", CALLS)
def test_call(got: Any, holds: Callable[[Any], None]) -> None:
    holds(got)

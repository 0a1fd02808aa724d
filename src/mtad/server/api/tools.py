"""What a request says of tools, which this server has none of.

Knows no schema: such requests do not fit it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_EMPTY: tuple[Any, ...] = (None, [], {})


def tools_in(data: Any) -> tuple[str, str] | None:
    """Where a request first asks for tools, and why it cannot be honoured; None where it does not.

    Args:
        data: the body as JSON has it.
    """
    return next(_asked(data), None) if isinstance(data, dict) else None


def _asked(data: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name in ("tools", "functions"):
        if isinstance(data.get(name), list) and data[name]:
            yield name, f"this server calls no tools; leave {name} out"
    for name in ("tool_choice", "function_call"):
        value = data.get(name)
        if value == "required" or isinstance(value, dict):
            yield name, f'this server calls no tools; leave {name} out, or give "none" or "auto"'
    messages = data.get("messages")
    for index, message in enumerate(messages if isinstance(messages, list) else ()):
        if isinstance(message, dict):
            yield from _asked_in(f"messages[{index}]", message)


def _asked_in(place: str, message: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if message.get("role") in ("tool", "function"):
        why = "send it as a user message"
        yield place, f"it is the result of a tool, and this server knows no tools; {why}"
    for name in ("tool_calls", "function_call"):
        if message.get(name) not in _EMPTY:
            why = "leave the call out and give its text as content"
            yield f"{place}.{name}", f"this server knows no calls of tools; {why}"

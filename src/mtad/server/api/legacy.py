"""What a request says of functions in the form that OpenAI had before tools, which is refused.

Knows no schema: such requests do not fit it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def legacy_in(data: Any) -> tuple[str, str] | None:
    """Where a request first has functions, and what to send instead; None where it has none.

    Args:
        data: the body as JSON has it.
    """
    return next(_asked(data), None) if isinstance(data, dict) else None


def _asked(data: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if isinstance(data.get("functions"), list) and data["functions"]:
        yield "functions", 'send tools, each {"type": "function", "function": {…}}'
    if isinstance(data.get("function_call"), dict):
        yield "function_call", 'send tool_choice, {"type": "function", "function": {"name": …}}'
    messages = data.get("messages")
    for index, message in enumerate(messages if isinstance(messages, list) else ()):
        if not isinstance(message, dict):
            continue
        if message.get("role") == "function":
            yield f"messages[{index}]", 'send it with the role "tool" and its tool_call_id'
        if message.get("function_call") not in (None, {}):
            yield f"messages[{index}].function_call", "send tool_calls"

"""Runs the everyday calls of a client and prints what each gave.

For programs in environments of their own: it knows Python's standard library alone.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable
from typing import Any

CALLS: dict[str, Callable[[], Any]] = {}
QUESTION = "List the names of all clients."
CHAT = [{"role": "user", "content": QUESTION}]
MODEL = "demo"
ALIAS = "gpt-4o-mini"
"""Another name of the served model, for clients that know OpenAI's names alone."""


def call(words: str) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Registers a function that returns what a call gave, as JSON can say it."""

    def keep(function: Callable[[], Any]) -> Callable[[], Any]:
        CALLS[words] = function
        return function

    return keep


def outcome(function: Callable[[], Any]) -> dict[str, Any]:
    """What a call gave, or how it failed."""
    try:
        if inspect.iscoroutinefunction(function):
            return {"got": asyncio.run(function())}
        return {"got": function()}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def main() -> None:
    """Print the outcome of every call, by its words, in one line of JSON."""
    print(json.dumps({words: outcome(function) for words, function in CALLS.items()}))

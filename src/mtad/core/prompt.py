"""What may be given as a prompt: a string, a chat, or token ids; and what no text may hold."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

from mtad.errors import PromptError


@runtime_checkable
class Array(Protocol):
    """A tensor or array, or one of its numbers."""

    def tolist(self) -> Any:
        """The same as lists and plain numbers."""


Message: TypeAlias = Mapping[str, Any]
Prompt: TypeAlias = str | Sequence[Message] | Sequence[int] | Array
"""A string, a chat (messages with `role` and `content`), or token ids (an array of them too)."""

_SURROGATE = re.compile("[\ud800-\udfff]")


def require_characters(value: Any, place: str) -> None:
    """Refuse texts with surrogates: halves of characters, which no encoding and no tokenizer has.

    Args:
        value: a text, or lists and mappings with texts inside.
        place: what it is called in the message.

    Raises:
        PromptError: a text has one; the message names it and where it is.
    """
    for where, text in _texts(value, place):
        if found := _SURROGATE.search(text):
            raise PromptError(
                f"{where or 'the text'} has a lone surrogate at index {found.start()}, "
                f"{found[0]!r}: half of a character, which no tokenizer can read; replace it, by "
                "U+FFFD for example, or join both halves"
            )


def _texts(value: Any, place: str) -> Iterator[tuple[str, str]]:
    """Every text in a value, and where it is."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, Mapping):
        for key, inside in value.items():
            yield from _texts(key, f"a key of {place}" if place else "a key")
            yield from _texts(inside, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list | tuple):
        for index, inside in enumerate(value):
            yield from _texts(inside, f"{place}[{index}]")

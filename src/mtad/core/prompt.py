"""What may be given as a prompt: a string, a chat, or token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable


@runtime_checkable
class Array(Protocol):
    """A tensor or array, or one of its numbers."""

    def tolist(self) -> Any:
        """The same as lists and plain numbers."""


Message: TypeAlias = Mapping[str, Any]
Prompt: TypeAlias = str | Sequence[Message] | Sequence[int] | Array
"""A string, a chat (messages with `role` and `content`), or token ids (an array of them too)."""

"""How the texts of one request are read: what is thinking, what is a call, what is content.

Knows no tokens and no HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mtad.server.api.tool_parsers.calls import CallReader
from mtad.server.api.tool_parsers.families import Family
from mtad.server.api.tool_parsers.pieces import Piece, Reply
from mtad.server.api.tool_parsers.thinking import Part, ThinkingReader


@dataclass(frozen=True)
class Reading:
    """How the texts of one request are read.

    Attributes:
        family: how calls are written; None where none are expected.
        schemas: of the tools' arguments, by name.
        single: whether a text has at most one call.
        alone: whether a text that does not begin with a call has none, and one that does no more
            than calls.
        required: whether there is nothing but calls.
        held: whether a grammar holds calls to their form.
        thinks: whether thinking is separated from the answer.
        opened: whether the prompt ends within the thinking.
    """

    family: Family | None = None
    schemas: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    single: bool = False
    alone: bool = False
    required: bool = False
    held: bool = False
    thinks: bool = False
    opened: bool = False

    def reader(self) -> TextReader:
        """For one text."""
        return TextReader(self)

    def reply(self, text: str) -> Reply:
        """What a whole text says."""
        reader = self.reader()
        return Reply.of([*reader.push(text), *reader.finish()])


class TextReader:
    """Reads one text as it comes.

    Args:
        reading: how.
    """

    def __init__(self, reading: Reading) -> None:
        self._thinking = ThinkingReader(opened=reading.opened) if reading.thinks else None
        self._calls = (
            CallReader(
                reading.family,
                reading.schemas,
                single=reading.single,
                alone=reading.alone,
                required=reading.required,
                held=reading.held,
            )
            if reading.family
            else None
        )
        self.has_calls = False

    def push(self, text: str) -> list[Piece]:
        """Take more text; what is certain by now."""
        parts: list[Part] = self._thinking.push(text) if self._thinking else [("answer", text)]
        return self._pieces(parts)

    def finish(self) -> list[Piece]:
        """What is left once the text has ended."""
        pieces = self._pieces(self._thinking.push("", last=True) if self._thinking else [])
        return self._noted(pieces + (self._calls.finish() if self._calls else []))

    def _pieces(self, parts: list[Part]) -> list[Piece]:
        pieces: list[Piece] = []
        for kind, text in parts:
            if kind == "thinking":
                pieces.append(Piece(reasoning=text))
            elif self._calls:
                pieces += self._calls.push(text)
            elif text:
                pieces.append(Piece(text))
        return self._noted(pieces)

    def _noted(self, pieces: list[Piece]) -> list[Piece]:
        self.has_calls = self.has_calls or any(piece.call for piece in pieces)
        return pieces

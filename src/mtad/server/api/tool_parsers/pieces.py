"""What a text says, piece by piece and as a whole: content, thinking, calls of tools.

Knows no tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class CallPiece:
    """What is new of a call.

    Attributes:
        index: its number in the text.
        name: of the function, in the call's first piece.
        arguments: more of the JSON text of its arguments.
        id: names the call, in its first piece.
    """

    index: int
    name: str = ""
    arguments: str = ""
    id: str = ""


@dataclass(frozen=True)
class Piece:
    """What is new of a text: one of these."""

    content: str = ""
    reasoning: str = ""
    call: CallPiece | None = None


@dataclass(frozen=True)
class Reply:
    """What a whole text says.

    Attributes:
        content: what is neither thinking nor a call.
        reasoning: the thinking; None where there is none.
        calls: of tools, in their order.
    """

    content: str = ""
    reasoning: str | None = None
    calls: list[CallPiece] = field(default_factory=list)

    @classmethod
    def of(cls, pieces: Iterable[Piece]) -> Reply:
        """The pieces put together."""
        content, reasoning, calls = "", "", list[CallPiece]()
        for piece in pieces:
            content, reasoning = content + piece.content, reasoning + piece.reasoning
            if piece.call is not None and piece.call.name:
                calls.append(piece.call)
            elif piece.call is not None:
                calls[-1] = replace(calls[-1], arguments=calls[-1].arguments + piece.call.arguments)
        return cls(content, reasoning or None, calls)

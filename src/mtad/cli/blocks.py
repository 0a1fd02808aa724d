"""Text coloured by origin: which tokens the draft proposed, which ones the target wrote.

    accepted draft token · endpoint token, underlined · │ ends a block

A character that is spread over several tokens belongs to the token that completes it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from mtad.engine.session import Block
from mtad.model.tokenizer import TextStream

ACCEPTED, ENDPOINT, BORDER = "green", "yellow underline", "dim"


class BlockPainter:
    """Paints the text of one request.

    Args:
        tokenizer: turns ids into text.
        plain: mark endpoint tokens with ⟨ ⟩ because colours and lines don't show.
        context: the prompt's ids.
    """

    def __init__(self, tokenizer: Any, plain: bool = False, context: Sequence[int] = ()) -> None:
        self.stream, self.plain = TextStream(tokenizer, context=context), plain
        self._waiting: deque[tuple[str, str]] = deque()

    def add(self, block: Block) -> None:
        """Take the tokens of a block."""
        for place, token in enumerate(block.token_ids):
            self.stream.push(token)
            style = ACCEPTED if place < block.num_accepted else ENDPOINT
            self._queue(self.stream.take(last=False), style)
        if block.finish_reason:
            self._queue(self.stream.take(last=True), ENDPOINT)
        if self._waiting and self._waiting[-1][1] != BORDER:
            self._waiting.append(("│", BORDER))

    def take(self, length: int) -> list[tuple[str, str]]:
        """The next `length` characters of the text, painted, and the border right after them."""
        painted = []
        while self._waiting and (length > 0 or self._waiting[0][1] == BORDER):
            piece, style = self._waiting.popleft()
            if style != BORDER:
                piece, rest = piece[:length], piece[length:]
                length -= len(piece)
                if rest:
                    self._waiting.appendleft((rest, style))
            painted.append(self._mark(piece, style))
        return painted

    def legend(self) -> Text:
        """What the colours and marks mean."""
        accepted = self._mark("accepted draft token", ACCEPTED)
        endpoint = self._mark("endpoint token, from the target", ENDPOINT)
        return Text.assemble(accepted, " · ", endpoint, " · ", ("│", BORDER), " ends a block")

    def print_legend(self) -> None:
        """Print the legend to stderr."""
        Console(stderr=True, highlight=False).print(self.legend(), soft_wrap=True)

    def _queue(self, piece: str, style: str) -> None:
        if piece:
            self._waiting.append((piece, style))

    def _mark(self, piece: str, style: str) -> tuple[str, str]:
        return (f"⟨{piece}⟩" if self.plain and style == ENDPOINT else piece), style

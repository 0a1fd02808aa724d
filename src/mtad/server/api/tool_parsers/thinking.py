"""Thinking before an answer, in a text that comes in pieces.

Knows no tokens and no calls.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

BEGIN, END = "<think>", "</think>"

Part: TypeAlias = tuple[Literal["thinking", "answer"], str]


class ThinkingReader:
    """Tells the thinking of one text from its answer; blanks around the tags belong to neither.

    Args:
        opened: whether the prompt ends within the thinking.
    """

    def __init__(self, *, opened: bool) -> None:
        self._where: Literal["begin", "thinking", "gap", "answer"] = (
            "thinking" if opened else "begin"
        )
        self._rest, self._has_said = "", False

    def push(self, text: str, last: bool = False) -> list[Part]:
        """Take more text; the parts that are certain by now.

        Args:
            text: what is new.
            last: whether the text has ended.
        """
        self._rest += text
        parts: list[Part] = []
        if self._where == "begin":
            self._begin(last)
        if self._where == "thinking":
            parts += self._think(last)
        if self._where == "gap" and (rest := self._rest.lstrip()):
            self._where, self._rest = "answer", rest
        if self._where == "answer" and self._rest:
            parts.append(("answer", self._rest))
            self._rest = ""
        return parts

    def _begin(self, last: bool) -> None:
        text = self._rest.lstrip()
        if text.startswith(BEGIN):
            self._where, self._rest = "thinking", text[len(BEGIN) :]
        elif last or not BEGIN.startswith(text):
            self._where = "answer"

    def _think(self, last: bool) -> list[Part]:
        if not self._has_said:
            self._rest = self._rest.lstrip()
        place = self._rest.find(END)
        if place >= 0:
            said, self._rest = self._rest[:place].rstrip(), self._rest[place + len(END) :]
            self._where = "gap"
        else:
            sizes = range(len(END) - 1, 0, -1)
            held = 0 if last else next((n for n in sizes if self._rest.endswith(END[:n])), 0)
            said = self._rest[: len(self._rest) - held].rstrip()
            self._rest = "" if last else self._rest[len(said) :]
        self._has_said = self._has_said or bool(said)
        return [("thinking", said)] if said else []

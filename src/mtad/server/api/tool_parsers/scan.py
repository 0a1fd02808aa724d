"""Where a JSON object ends in a text that comes in pieces.

Knows nothing of calls.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

Expected: TypeAlias = Literal[
    "object", "key or end", "key", "colon", "value", "value or end", "more", "string", "atom"
]
_VALUES = '{["-0123456789tfn'
_ALLOWED: dict[Expected, str] = {
    "object": "{",
    "key or end": '"}',
    "key": '"',
    "colon": ":",
    "value": _VALUES,
    "value or end": _VALUES + "]",
    "more": ",}]",
}
_BLANKS = " \t\r\n"


class ObjectScan:
    """Reads one JSON object, character by character.

    Numbers and words are taken as they are; who has the whole object parses it.

    Args:
        inside: whether it begins behind a value of the object, instead of before it.

    Attributes:
        num_read: characters that were taken; where it is no JSON, those before the place.
    """

    def __init__(self, *, inside: bool = False) -> None:
        self._closers = ["}"] if inside else []
        self._expected: Expected = "more" if inside else "object"
        self._is_key = self._is_escaped = False
        self.num_read = 0

    def push(self, text: str) -> int | None:
        """Take a piece; how many of its characters end the object, None while it goes on.

        Raises:
            ValueError: it is no JSON.
        """
        for place, char in enumerate(text):
            self._take(char)
            self.num_read += 1
            if not self._closers and self._expected == "more":
                return place + 1
        return None

    def _take(self, char: str) -> None:
        if self._expected == "string":
            self._take_in_string(char)
            return
        if self._expected == "atom":
            if char.isalnum() or char in "+-.":
                return
            self._expected = "more"
        if char in _BLANKS:
            return
        if char not in _ALLOWED[self._expected]:
            raise ValueError(f"{char!r} cannot stand here; expected: {self._expected}")
        if char in "{[":
            self._closers.append("}" if char == "{" else "]")
            self._expected = "key or end" if char == "{" else "value or end"
        elif char in "}]":
            if self._closers.pop() != char:
                raise ValueError(f"{char!r} closes what it did not open")
            self._expected = "more"
        elif char == '"':
            self._is_key, self._expected = "key" in self._expected, "string"
        elif char == ",":
            self._expected = "key" if self._closers[-1] == "}" else "value"
        else:
            self._expected = "value" if char == ":" else "atom"

    def _take_in_string(self, char: str) -> None:
        if self._is_escaped:
            self._is_escaped = False
        elif char == "\\":
            self._is_escaped = True
        elif char == '"':
            self._expected = "colon" if self._is_key else "more"
        elif char < " ":
            raise ValueError("a string of JSON has no control characters")

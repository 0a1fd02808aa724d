"""One call of a tool in a text that comes in pieces: its name first, then its arguments.

A call is certain once its name is that of a tool and its arguments have begun. Knows nothing of
what stands around it.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import Any

from mtad.server.api.tool_parsers.families import ARGS, CALL_ID
from mtad.server.api.tool_parsers.scan import ObjectScan

_B = r"[ \t\r\n]*"
_KEYS = ("arguments", "parameters")
_FIRST = re.compile(rf'\{{{_B}"([^"\\]*)"')
"""The first key of a call."""
_FIRST_KEYS = ("name", "type", "id", *_KEYS)
_NAME = re.compile(rf'\{{{_B}"name"{_B}:{_B}"([^"\\]*)"')
_HEAD = re.compile(rf'{_NAME.pattern}{_B},{_B}"(?:{"|".join(_KEYS)})"{_B}:{_B}(?=\{{)')
_NAMED = re.compile(
    rf"([\w.-]+)\s*(?:{re.escape(CALL_ID)}\s*[\w-]*\s*)?(?:{re.escape(ARGS)}\s*)?(?=\{{)", re.ASCII
)
_MOST_BEFORE = 400
"""Characters of name and id, before arguments."""


class NoCall(Exception):
    """The text is no call of these tools."""


class OneCall(ABC):
    """A call that is being read.

    Attributes:
        name: of the tool; empty while it is not certain that it is a call.
        rest: what was not read; once the call is over, what follows it.
        is_over: whether the call has ended.
    """

    def __init__(self) -> None:
        self.name = self.rest = ""
        self.is_over = False

    @abstractmethod
    def push(self, text: str) -> str:
        """Take more text; what is new of the JSON text of the arguments.

        Raises:
            NoCall: it is none; never after its name was certain.
        """

    def finish(self) -> str:
        """The arguments that were held back, once the text has ended within the call."""
        return ""


class _Arguments:
    """The arguments of a call as a JSON object, as they are written.

    Where they are no JSON, all up to the mark is theirs.

    Args:
        mark: of the end of a call.
    """

    def __init__(self, mark: str) -> None:
        self._mark, self._scan, self.rest = mark, ObjectScan(), ""
        self.is_over = self.is_broken = False

    def push(self, text: str) -> str:
        """Take more text; what is new of the arguments."""
        self.rest += text
        if self.is_broken:
            return self._broken()
        before = self._scan.num_read
        try:
            end = self._scan.push(self.rest)
        except ValueError:
            self.is_broken = True
            return self._taken(self._scan.num_read - before) + self._broken()
        self.is_over = end is not None
        return self._taken(len(self.rest) if end is None else end)

    def _broken(self) -> str:
        place = self.rest.find(self._mark) if self._mark else -1
        self.is_over = place >= 0
        return self._taken(
            place if self.is_over else len(self.rest) - overlap(self.rest, self._mark)
        )

    def _taken(self, size: int) -> str:
        text, self.rest = self.rest[:size], self.rest[size:]
        return text


class JsonCall(OneCall):
    """A JSON object of the name and the arguments.

    Args:
        names: of the tools.
        mark: of the end of a call.
    """

    def __init__(self, names: Collection[str], mark: str) -> None:
        super().__init__()
        self._names, self._arguments = names, _Arguments(mark)
        self._whole, self._tail = ObjectScan(), ObjectScan(inside=True)

    def push(self, text: str) -> str:
        """Take more text; what is new of the arguments."""
        self.rest += text
        said = "" if self.name else self._begin()
        if not self.name or self.is_over:
            return said
        if not self._arguments.is_over:
            said = self._arguments.push(self.rest)
            self.rest = self._arguments.rest if self._arguments.is_over else ""
        if self._arguments.is_over:
            self._close()
        return said

    def finish(self) -> str:
        """The arguments that were held back."""
        return "" if self._arguments.is_over else self._arguments.rest

    def _begin(self) -> str:
        """The name, once it is certain; the arguments, too, where they come before it."""
        if (head := _HEAD.match(self.rest)) and head[1] in self._names:
            self.name, self.rest = head[1], self.rest[head.end() :]
            return ""
        first, name = _FIRST.match(self.rest), _NAME.match(self.rest)
        if (first and first[1] not in _FIRST_KEYS) or (name and name[1] not in self._names):
            raise NoCall
        try:
            end = self._whole.push(self.rest[self._whole.num_read :])
        except ValueError:
            raise NoCall from None
        if end is None:
            return ""
        size = self._whole.num_read
        self.name, said = _call_in(self.rest[:size], self._names)
        self.rest, self.is_over = self.rest[size:], True
        return said

    def _close(self) -> None:
        """Read the end of the object, which may have other keys, or lack its brace."""
        before = self._tail.num_read
        try:
            end = None if self._arguments.is_broken else self._tail.push(self.rest)
            self.is_over = self._arguments.is_broken or end is not None
        except ValueError:
            self.is_over = True
        self.rest = self.rest[self._tail.num_read - before :]


class NamedCall(JsonCall):
    """The name, perhaps an id, and the JSON object of the arguments."""

    def _begin(self) -> str:
        place = self.rest.find("{")
        size = len(self.rest) if place < 0 else place
        if size > _MOST_BEFORE:
            raise NoCall
        if place >= 0:
            head = _NAMED.match(self.rest)
            if head is None or head[1] not in self._names:
                raise NoCall
            self.name, self.rest = head[1], self.rest[head.end() :]
        return ""

    def _close(self) -> None:
        self.is_over = True


def _call_in(text: str, names: Collection[str]) -> tuple[str, str]:
    """The name and the arguments of a whole call."""
    try:
        call = json.loads(text, parse_constant=refuse_constant)
        name = call.get("name")
        arguments: Any = next((call[key] for key in _KEYS if key in call), {})
        if isinstance(arguments, str):  # JSON within JSON, as some models write it
            arguments = json.loads(arguments, parse_constant=refuse_constant)
    except (ValueError, RecursionError):
        raise NoCall from None
    if not isinstance(name, str) or name not in names or not isinstance(arguments, dict):
        raise NoCall
    return name, json.dumps(arguments, ensure_ascii=False)


def refuse_constant(word: str) -> Any:
    """For `json.loads`: NaN and Infinity are no JSON."""
    raise ValueError(f"{word} is no JSON")


def overlap(text: str, mark: str) -> int:
    """Length of the longest end of a text that a mark may begin with."""
    sizes = range(min(len(text), len(mark) - 1), 0, -1)
    return next((size for size in sizes if text.endswith(mark[:size])), 0)

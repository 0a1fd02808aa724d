"""A call in tags, `<function=…>` around a `<parameter=…>` for each argument.

Knows nothing of what stands around it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from mtad.server.api.tool_parsers.one_call import NoCall, OneCall, overlap
from mtad.server.api.tool_parsers.xml_values import is_text, json_of, property_of

_BEGIN, _END = "<function=", "</function>"
_KEY, _VALUE_END = "<parameter=", "</parameter>"
_MOST_NAME = 200


class XmlCall(OneCall):
    """A call in tags; arguments that are texts come in pieces, others once they are whole.

    Args:
        schemas: of the tools' arguments, by name.
        mark: of the end of a call, which ends one that lacks its own tag.
    """

    def __init__(self, schemas: Mapping[str, Mapping[str, Any]], mark: str) -> None:
        super().__init__()
        self._schemas, self._mark = schemas, mark
        self._state: Callable[[], bool] = self._in_head
        self._said = list[str]()
        self._num, self._is_fresh = 0, False
        self._schema: Mapping[str, Any] = {}

    def push(self, text: str) -> str:
        """Take more text; what is new of the arguments."""
        self.rest += text
        while not self.is_over and self._state():
            continue
        said, self._said = "".join(self._said), []
        return said

    # --- states: each reads what it can, and returns whether another one may go on at once

    def _in_head(self) -> bool:
        """Before the end of the tag with the name."""
        place = self.rest.find(">")
        size = len(self.rest) if place < 0 else place
        if not self.rest.startswith(_BEGIN[: len(self.rest)]) or size > _MOST_NAME:
            raise NoCall
        if place < 0:
            return False
        name = self.rest[len(_BEGIN) : place].strip()
        if name not in self._schemas:
            raise NoCall
        self.name, self.rest = name, self.rest[place + 1 :]
        self._state = self._between
        return True

    def _between(self) -> bool:
        """Before an argument or the end; what else stands there is no part of the call."""
        marks = [mark for mark in (_KEY, _END, self._mark) if mark]
        found = re.search("|".join(map(re.escape, marks)), self.rest)
        if found is None:
            held = max(overlap(self.rest, mark) for mark in marks)
            self.rest = self.rest[len(self.rest) - held :]
            return False
        if found[0] == _KEY:
            self.rest, self._state = self.rest[found.end() :], self._in_key
            return True
        self._said.append("}" if self._num else "{}")
        self.rest = self.rest[found.end() if found[0] == _END else found.start() :]
        self.is_over = True
        return False

    def _in_key(self) -> bool:
        """In the tag with an argument's name."""
        place = self.rest.find(">")
        if place < 0:
            return False
        key, self.rest = self.rest[:place].strip(), self.rest[place + 1 :]
        self._schema = property_of(self._schemas[self.name], key)
        self._said.append(f"{', ' if self._num else '{'}{json.dumps(key, ensure_ascii=False)}: ")
        self._num += 1
        self._is_fresh, self._state = True, self._in_value
        if is_text(self._schema):
            self._said.append('"')
            self._state = self._in_text
        return True

    def _in_value(self) -> bool:
        """In an argument that is read as a whole."""
        place = self.rest.find(_VALUE_END)
        if place < 0:
            return False
        text = self.rest[:place].removeprefix("\n").removesuffix("\n")
        self._said.append(json_of(text, self._schema, self._schemas[self.name]))
        self.rest, self._state = self.rest[place + len(_VALUE_END) :], self._between
        return True

    def _in_text(self) -> bool:
        """In an argument that is a text."""
        if self._is_fresh and self.rest:
            self.rest, self._is_fresh = self.rest.removeprefix("\n"), False
        place = self.rest.find(_VALUE_END)
        if place < 0:
            held = max(overlap(self.rest, mark) for mark in (_VALUE_END, f"\n{_VALUE_END}"))
            size = len(self.rest) - held
            self._said.append(json.dumps(self.rest[:size], ensure_ascii=False)[1:-1])
            self.rest = self.rest[size:]
            return False
        text = json.dumps(self.rest[:place].removesuffix("\n"), ensure_ascii=False)
        self._said.append(text[1:])
        self.rest, self._state = self.rest[place + len(_VALUE_END) :], self._between
        return True

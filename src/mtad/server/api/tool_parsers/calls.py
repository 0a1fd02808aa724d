"""Calls of tools in a text that comes in pieces.

What looks like a call and is none stays content. A call is reported once its JSON is complete, as
it may be none before; where a grammar holds the text, as soon as its name is there. What comes of a
text does not depend on how it was cut into pieces. Knows no tokens and no HTTP.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Collection
from typing import Any

from mtad.server.api.tool_parsers.families import Family
from mtad.server.api.tool_parsers.pieces import CallPiece, Piece
from mtad.server.api.tool_parsers.scan import ObjectScan

_KEYS = ("arguments", "parameters")
_HEAD = re.compile(r'\{"name": "([^"\\]+)", "(?:arguments|parameters)": (?=\{)')
"""What a grammar lets a call begin with."""


class CallReader:
    """Reads one text.

    Args:
        family: how calls are written.
        names: of the tools; a call of another one is none.
        held: whether a grammar holds the calls to their form.
        single: whether there is at most one call, and nothing after it.

    Attributes:
        num_calls: calls so far.
    """

    def __init__(self, family: Family, names: Collection[str], *, held: bool, single: bool) -> None:
        self._family, self._names, self._held, self._single = family, names, held, single
        self.num_calls = 0
        self._rest = ""  # not yet read
        self._blank = ""  # blanks that were read, and are content if more content follows
        self._state: Callable[[], bool] = self._at_begin if family.is_bare else self._in_content
        self._tried = ""  # what the rest would be if it is no call
        self._in_list = self._has_ended = False
        self._is_first = True  # since what announced calls
        self._scan, self._num_scanned = ObjectScan(), 0
        self._pieces: list[Piece] = []

    def push(self, text: str) -> list[Piece]:
        """Take more text; what is certain by now."""
        self._rest += text
        while self._rest and self._state():
            continue
        pieces, self._pieces = self._pieces, []
        return pieces

    def finish(self) -> list[Piece]:
        """What is left once the text has ended."""
        self._has_ended = True
        pieces = self.push("")
        while self._state in (self._before_call, self._in_call):  # incomplete, and so none
            self._give_up()
            pieces += self.push("")
        if self._blank and not self.num_calls:
            pieces.append(Piece(self._blank))
        return pieces

    # --- states: each reads what it can, and returns whether another one may go on at once

    def _at_begin(self) -> bool:
        """Before the first character that is no blank."""
        text = self._rest.lstrip()
        self._blank += self._rest[: len(self._rest) - len(text)]
        self._rest = text
        opens = "{[" if self._family.in_list != "never" else "{"
        if text and text[0] in opens:
            self._try("")
        elif text:
            self._state = self._in_content
        return bool(text)

    def _in_content(self) -> bool:
        """Outside of calls."""
        begin = self._family.begin
        place = self._rest.find(begin) if begin else -1
        if place >= 0:
            self._say(self._rest[:place])
            self._rest = self._rest[place + len(begin) :]
            self._try(begin)
            return True
        held = 0 if self._has_ended else _overlap(self._rest, begin)
        self._say(self._rest[: len(self._rest) - held])
        self._rest = self._rest[len(self._rest) - held :]
        return False

    def _before_call(self) -> bool:
        """After what announces a call, or between two of them."""
        text = self._rest.lstrip()
        self._tried += self._rest[: len(self._rest) - len(text)]
        self._rest = text
        wants_list = self._family.in_list != "never" and not self._in_list
        if text.startswith("[") and wants_list and self._is_first:
            self._in_list, self._tried, self._rest = True, self._tried + "[", text[1:]
        elif text:
            self._scan, self._num_scanned, self._state = ObjectScan(), 0, self._in_call
        return bool(text)

    def _in_call(self) -> bool:
        """In the JSON object of a call."""
        if self._held and (head := _HEAD.match(self._rest)) and head[1] in self._names:
            self._tell(CallPiece(self.num_calls, head[1], "", _new_id()))
            self._rest, self._scan = self._rest[head.end() :], ObjectScan()
            self._state = self._in_arguments
            return True
        try:
            end = self._scan.push(self._rest[self._num_scanned :])
        except ValueError:
            return self._give_up()
        if end is None:
            self._num_scanned = len(self._rest)
            return False
        end += self._num_scanned
        call = _call_in(self._rest[:end], self._names)
        if call is None:
            return self._give_up()
        name, arguments = call
        self._tell(CallPiece(self.num_calls, name, "", _new_id()))
        self._tell(CallPiece(self.num_calls, "", arguments))
        self._rest = self._rest[end:]
        return self._ended()

    def _in_arguments(self) -> bool:
        """In the arguments of a call whose name has been reported."""
        end = self._scan.push(self._rest)
        self._tell(CallPiece(self.num_calls, "", self._rest[:end]))
        self._rest = "" if end is None else self._rest[end:]
        if end is not None:
            self._state = self._in_tail
        return True

    def _in_tail(self) -> bool:
        """Between the arguments of a call and its last brace."""
        self._rest = self._rest[1:]
        return self._ended()

    def _after_call(self) -> bool:
        """After a call: its end, another one, or content."""
        text = self._rest = self._rest.lstrip()
        end = "]" if self._in_list else self._family.end
        between = "," if self._in_list else self._family.between.strip()
        if text and end and text.startswith(end):
            self._rest, self._in_list, self._state = text[len(end) :], False, self._in_content
        elif text and end.startswith(text):
            return False
        elif text and between and text.startswith(between):
            self._rest = text[len(between) :]
            self._again(between)
        elif text:
            self._state, self._in_list = self._in_content, False
        return bool(text)

    def _closed(self) -> bool:
        """After the only call."""
        self._rest = ""
        return False

    # --- what the states do

    def _try(self, begin: str) -> None:
        """Expect a call after what announces one."""
        self._tried, self._in_list, self._is_first = begin, False, True
        self._state = self._before_call

    def _again(self, between: str) -> None:
        """Expect another call after one."""
        self._tried, self._is_first, self._state = between, False, self._before_call

    def _give_up(self) -> bool:
        """It is no call: content, in which one may yet begin."""
        self._say(self._tried)
        self._state, self._in_list = self._in_content, False
        return True

    def _tell(self, call: CallPiece) -> None:
        self._blank = ""
        self._pieces += [Piece(call=call)] if call.name or call.arguments else []

    def _ended(self) -> bool:
        """A call has ended."""
        self.num_calls += 1
        self._state = self._closed if self._single else self._after_call
        return True

    def _say(self, text: str) -> None:
        """Content; blanks at its end wait, as they are none before a call."""
        whole = self._blank + text
        shown = whole.rstrip()
        self._blank = whole[len(shown) :]
        if shown:
            self._pieces.append(Piece(shown))


def _call_in(text: str, names: Collection[str]) -> tuple[str, str] | None:
    """The name and the arguments of a call; None where it is none of these tools."""
    try:
        call = json.loads(text, parse_constant=_refuse)
        name = call.get("name")
        arguments: Any = next((call[key] for key in _KEYS if key in call), {})
        if isinstance(arguments, str):  # JSON within JSON, as some models write it
            arguments = json.loads(arguments, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    if not isinstance(name, str) or name not in names or not isinstance(arguments, dict):
        return None
    return name, json.dumps(arguments, ensure_ascii=False)


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")


def _new_id() -> str:
    return f"call_{secrets.token_hex(12)}"


def _overlap(text: str, mark: str) -> int:
    """Length of the longest end of a text that a mark may begin with."""
    sizes = range(min(len(text), len(mark) - 1), 0, -1)
    return next((size for size in sizes if text.endswith(mark[:size])), 0)

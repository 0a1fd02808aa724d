"""Calls of tools in a text that comes in pieces.

What looks like a call and is none stays content. A call is reported as soon as it is certain that
it is one, its name first and then its arguments as they come. What comes of a text does not depend
on how it was cut into pieces. Knows no tokens and no HTTP.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any

from mtad.server.api.tool_parsers.families import Family
from mtad.server.api.tool_parsers.one_call import JsonCall, NamedCall, NoCall, OneCall, overlap
from mtad.server.api.tool_parsers.pieces import CallPiece, Piece
from mtad.server.api.tool_parsers.xml_call import XmlCall


class CallReader:
    """Reads one text.

    Args:
        family: how calls are written.
        schemas: of the arguments, by the name of the tool; a call of another one is none.
        single: whether there is at most one call, and nothing after it.
        alone: whether a text that does not begin with a call has none.
        required: whether there is nothing but calls.
        held: whether a grammar holds calls to their form, so that what begins like one and is cut
            off is no content.

    Attributes:
        num_calls: calls so far.
    """

    def __init__(
        self,
        family: Family,
        schemas: Mapping[str, Mapping[str, Any]],
        *,
        single: bool = False,
        alone: bool = False,
        required: bool = False,
        held: bool = False,
    ) -> None:
        self._family, self._schemas, self._single = family, schemas, single
        self._alone, self._required, self._held = alone, required, held
        self.num_calls = 0
        self._rest = ""  # not yet read
        self._blank = ""  # blanks that were read, and are content if more content follows
        at_begin = family.is_bare or alone
        self._state: Callable[[], bool] = self._at_begin if at_begin else self._in_content
        self._tried = ""  # what stands before a call, and is content if it is none
        self._text = ""  # what was read of a call that is not certain
        self._in_list = self._has_ended = False
        self._is_first = True  # since what announced calls
        self._call: OneCall = JsonCall((), "")
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
        while self._state == self._before_call or (self._is_in_call and not self._call.name):
            if self._held:
                break
            self._give_up()  # incomplete, and so none
            pieces += self.push("")
        if self._is_in_call and (left := self._call.finish()):
            pieces.append(Piece(call=CallPiece(self.num_calls, "", left)))
        if self._blank and not (self.num_calls or self._is_in_call):
            pieces.append(Piece(self._blank))
        return pieces

    @property
    def _is_in_call(self) -> bool:
        return self._state == self._in_call

    # --- states: each reads what it can, and returns whether another one may go on at once

    def _at_begin(self) -> bool:
        """Before the first character that is no blank."""
        text, begins = self._rest.lstrip(), self._family.begins
        self._blank += self._rest[: len(self._rest) - len(text)]
        self._rest = text
        opens = "{[" if self._family.in_list != "never" else "{"
        if begin := next(filter(text.startswith, begins), ""):
            self._rest = text[len(begin) :]
            self._try(begin)
        elif text and not self._has_ended and any(one.startswith(text) for one in begins):
            return False
        elif text and self._family.is_bare and text[0] in opens:
            self._try("")
        elif text:
            self._state = self._in_content
        return bool(text)

    def _in_content(self) -> bool:
        """Outside of calls."""
        begins = [] if self._alone and not self.num_calls else self._family.begins
        found = [(place, one) for one in begins if (place := self._rest.find(one)) >= 0]
        if found:
            place, begin = min(found)
            self._say(self._rest[:place])
            self._rest = self._rest[place + len(begin) :]
            self._try(begin)
            return True
        held = 0 if self._has_ended else max((overlap(self._rest, b) for b in begins), default=0)
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
            self._call, self._state = self._new_call(text[0]), self._in_call
        return bool(text)

    def _new_call(self, first: str) -> OneCall:
        """A call of the form that its first character shows."""
        family = self._family
        if family.form == "xml" and first != "{":
            return XmlCall(self._schemas, family.end)
        kind = NamedCall if family.form == "named" and first != "{" else JsonCall
        return kind(self._schemas, family.end)

    def _in_call(self) -> bool:
        """In a call, or in what may be one."""
        text, self._rest = self._rest, ""
        was_named = bool(self._call.name)
        if not was_named:
            self._text += text
        try:
            arguments = self._call.push(text)
        except NoCall:
            return self._give_up()
        if self._call.name and not was_named:
            self._text = ""
            self._tell(CallPiece(self.num_calls, self._call.name, "", _new_id()))
        if arguments:
            self._tell(CallPiece(self.num_calls, "", arguments))
        if self._call.is_over:
            self._rest = self._call.rest
            self.num_calls += 1
            self._state = self._closed if self._single else self._after_call
        return self._call.is_over

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
        if begin and begin == self._family.opening:
            self._call, self._state = self._new_call(begin[0]), self._in_call
            self._call.push(begin)

    def _again(self, between: str) -> None:
        """Expect another call after one."""
        self._tried, self._is_first, self._state = between, False, self._before_call

    def _give_up(self) -> bool:
        """It is no call: content, in which one may yet begin."""
        self._say(self._tried)
        self._rest, self._text = self._text + self._rest, ""
        self._state, self._in_list = self._in_content, False
        return True

    def _tell(self, call: CallPiece) -> None:
        self._blank = ""
        self._pieces.append(Piece(call=call))

    def _say(self, text: str) -> None:
        """Content; blanks at its end wait, as they are none before a call."""
        if self._required or (self._alone and self.num_calls):
            return  # the beginning of a call that was cut off
        whole = self._blank + text
        shown = whole.rstrip()
        self._blank = whole[len(shown) :]
        if shown:
            self._pieces.append(Piece(shown))


def _new_id() -> str:
    return f"call_{secrets.token_hex(12)}"

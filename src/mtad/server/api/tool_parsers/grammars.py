"""The grammar of texts that call tools, in llguidance's notation of Lark.

Knows no tokens but the numbers of those that stand for a mark.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mtad.grammar.grammar import Grammar
from mtad.server.api.tool_parsers.families import Family
from mtad.server.api.tool_parsers.thinking import BEGIN, END

_BLANK = r"\x20?"
"""Between the symbols of arguments; they stand in one line."""
_ANY = r"TEXT: /(.|\n)*/"
_NO_CALL = r"PLAIN: /(\s*[^\s{\[](.|\n)*)?/"
"""A text that does not begin as a call without a mark does."""


@dataclass(frozen=True)
class CallGrammar:
    """What texts of a request may be.

    Attributes:
        family: how calls are written.
        schemas: of the arguments, by the name of the tool.
        required: whether there must be a call; else there may be text before and after it, or
            no call at all.
        single: whether there is at most one.
        thinks: whether thinking may come first.
        opened: whether the prompt ends within the thinking.
        tokens: the special tokens among the marks, which are no text.
    """

    family: Family
    schemas: Mapping[str, Mapping[str, Any]]
    required: bool
    single: bool
    thinks: bool
    opened: bool
    tokens: Mapping[str, int]

    @property
    def grammar(self) -> Grammar:
        """The grammar."""
        lines = ["%llguidance {}", self._start, _ANY, self._calls]
        if self.family.is_bare and not self.required:
            lines.append(_NO_CALL)
        if self._thinking:
            lines.append(self._head("think", END))
        if self.family.begin and not self.family.is_bare:
            lines.append(self._head("head", self.family.begin))
        lines.append("call: " + " | ".join(f"call_{i}" for i in range(len(self.schemas))))
        for index, (name, schema) in enumerate(self.schemas.items()):
            head = f'{{"name": "{name}", "{self.family.arguments}": '
            lines.append(f'call_{index}: {_quoted(head)} args_{index} "}}"')
            lines.append(f"args_{index}: %json {json.dumps(schema_of(schema))}")
        return Grammar.lark("\n".join(lines) + "\n")

    @property
    def _start(self) -> str:
        """The rule of the whole text."""
        if self.required:
            mark = "" if self.family.is_bare else self._mark(self.family.begin)
            return f"start: {self._thinking} {mark} calls"
        before = self._thinking if self.opened else ""  # any text may hold other thinking
        if self.family.is_bare:
            return f"start: {before} calls | {before} PLAIN"
        if self.single or self.family.in_list == "always":
            return f"start: {before} head calls | {before} TEXT"
        return f"start: {before} (head calls)* TEXT"

    @property
    def _thinking(self) -> str:
        """What may come first."""
        if not self.thinks:
            return ""
        begin = "" if self.opened else self._mark(BEGIN)
        return f"({begin} think /\\s{{0,2}}/)" + ("" if self.opened else "?")

    @property
    def _calls(self) -> str:
        """The rule of what comes after the mark."""
        family = self.family
        if family.end:
            one = f"{_quoted(chr(10))} call {_quoted(chr(10))} {self._mark(family.end)}"
            again = f"{_quoted(family.between)} {self._mark(family.begin)} {one}"
            return f"calls: {one}" + (f" ({again})*" if self.required and not self.single else "")
        several = "" if self.single else '(", " call)*'
        if family.in_list == "always":
            return f'calls: "[" call {several} "]"'
        if family.in_list == "several" and not self.single:
            return f'calls: call | "[" call {several} "]"'
        more = "" if self.single else f"({_quoted(family.between)} call)*"
        return f"calls: call {more}"

    def _head(self, rule: str, mark: str) -> str:
        """A rule of any text up to a mark."""
        lazy = "" if mark in self.tokens else "[lazy]"
        return f"{rule}{lazy}: TEXT {self._mark(mark)}"

    def _mark(self, mark: str) -> str:
        """A mark in a rule: a token, or its text."""
        if not mark:
            return ""
        return f"<[{self.tokens[mark]}]>" if mark in self.tokens else _quoted(mark)


def schema_of(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a tool's arguments, which are an object whatever it says."""
    return {"x-guidance": {"whitespace_pattern": _BLANK}, "type": "object", **parameters}


def _quoted(text: str) -> str:
    return json.dumps(text)

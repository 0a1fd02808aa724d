"""The grammar of texts that call tools, in llguidance's notation of Lark.

Knows no tokens but the numbers of those that stand for a mark.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mtad.errors import GrammarError
from mtad.grammar.grammar import Grammar, JointGrammar
from mtad.grammar.matcher import WHITESPACE
from mtad.server.api.tool_parsers.answers import answer_lines, begins_of, json_of
from mtad.server.api.tool_parsers.families import ARGS, Family
from mtad.server.api.tool_parsers.references import moved
from mtad.server.api.tool_parsers.thinking import BEGIN, END
from mtad.server.api.tool_parsers.xml_grammar import tagged_call

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
        answer: the form of texts without calls; None where they are free.
        required: whether there must be a call; else there may be text before and after it, or
            no call at all. Text that has a form has no calls.
        single: whether there is at most one.
        thinks: whether thinking may come first.
        opened: whether the prompt ends within the thinking.
        tokens: the special tokens among the marks, which are no text.
    """

    family: Family
    schemas: Mapping[str, Mapping[str, Any]]
    answer: Grammar | None
    required: bool
    single: bool
    thinks: bool
    opened: bool
    tokens: Mapping[str, int]

    @property
    def grammar(self) -> Grammar:
        """The grammar.

        Raises:
            GrammarError: a schema has something that no text would be held to.
        """
        lines = ["%llguidance {}", self._start, _ANY, self._calls]
        if self.answer is not None:
            lines += answer_lines(self.answer, self.begins)
        elif self.family.is_bare and not self.required:
            lines.append(_NO_CALL)
        if self._thinking:
            lines.append(self._head("think", END))
        if self.family.begin and not self.family.is_bare:
            lines.append(self._head("head", self.family.begin))
        if self._has_openings:
            lines += self._openings()
        lines.append("call: " + " | ".join(f"call_{i}" for i in range(len(self.schemas))))
        for index, (name, schema) in enumerate(self.schemas.items()):
            lines += self._call(f"call_{index}", name, schema)
        text = "\n".join(lines) + "\n"
        if self.answer is not None and self.answer.kind == "grammar":
            return JointGrammar("grammar", text, (("answer", self.answer),))
        return Grammar.lark(text)

    @property
    def begins(self) -> list[str]:
        """What an answer must not begin with, since calls do; none where it is JSON or free."""
        if self.answer is None or self.answer.kind == "json_schema":
            return []
        return begins_of(self.family, thinks=self.thinks, opened=self.opened)

    @property
    def _start(self) -> str:
        """The rule of the whole text."""
        mark = "" if self.family.is_bare else self._mark(self.family.begin)
        if self.required:
            return f"start: {self._thinking} {mark} calls"
        if self.answer is not None:
            return f"start: {self._thinking} ({mark} calls | answer)"
        before = self._thinking if self.opened else ""  # any text may hold other thinking
        if self.family.is_bare:
            return f"start: {before} calls | {before} PLAIN"
        one = "(head calls | opened)" if self._has_openings else "(head calls)"
        if self.single or self.family.in_list == "always":
            return f"start: {before} {one} | {before} TEXT"
        return f"start: {before} {one}* TEXT"

    @property
    def _is_free(self) -> bool:
        """Whether texts without calls are free."""
        return not self.required and self.answer is None

    @property
    def _has_openings(self) -> bool:
        """Whether free text may go over into a call that lacks its mark."""
        return self._is_free and bool(self.family.opening)

    def _openings(self) -> Iterator[str]:
        """The rules of a call that lacks its mark, with the text before it."""
        rules = {f"call_{i}": name for i, name in enumerate(self.schemas)}
        yield "opened: " + " | ".join(f"to_{rule} {rule}_rest" for rule in rules)
        for rule, name in rules.items():
            tag = rf"{self.family.opening}\s*{re.escape(name)}\s*>"
            yield f"to_{rule}[lazy]: TEXT /{tag}/"

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
        if family.end or family.form == "named":
            line = _quoted("\n")
            one = f"{line} call {line} {self._mark(family.end)}" if family.end else "call"
            again = f"{_quoted(family.between)} {self._mark(family.begin)} {one}"
            is_last = self._is_free or self.single
            return f"calls: {one}" + ("" if is_last else f" ({again})*")
        several = "" if self.single else '(", " call)*'
        if family.in_list == "always":
            return f'calls: "[" call {several} "]"'
        if family.in_list == "several" and not self.single:
            return f'calls: call | "[" call {several} "]"'
        more = "" if self.single else f"({_quoted(family.between)} call)*"
        return f"calls: call {more}"

    def _call(self, rule: str, name: str, schema: Mapping[str, Any]) -> Iterator[str]:
        """The rules of a call of one tool."""
        key, kind = self.family.arguments, schema.get("type", "object")
        if "object" not in (kind if isinstance(kind, list) else [kind]):
            raise GrammarError(
                f"the arguments of {name} are an object, and its schema says {kind!r}"
            )
        if self.family.form == "xml":
            yield from tagged_call(rule, name, schema)
            return
        is_json = self.answer is not None and self.answer.kind == "json_schema"
        if self.family.is_bare and is_json:  # both are JSON from their first brace
            yield f"{rule}: {json_of(_object_of(name, key, schema), WHITESPACE)}"
            return
        if self.family.form == "named":
            yield f"{rule}: {_quoted(name)} {self._mark(ARGS)} args_{rule}"
        else:
            head = f'{{"name": "{name}", "{key}": '
            yield f'{rule}: {_quoted(head)} args_{rule} "}}"'
        yield f"args_{rule}: {json_of(schema_of(schema), _BLANK)}"

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
    return {**parameters, "type": "object"}


def _object_of(name: str, key: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a call that is one JSON object."""
    inner = moved(schema_of(schema), f"#/properties/{key}")
    return {
        "type": "object",
        "properties": {"name": {"const": name}, key: inner},
        "required": ["name", key],
        "additionalProperties": False,
    }


def _quoted(text: str) -> str:
    return json.dumps(text)

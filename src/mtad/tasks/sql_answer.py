"""The query in a model's answer, recognised by the parser of the SQLite that will run it.

The first that there is:

1. of the fenced blocks whose language is SQL, the last with a query in it;
2. of the other fenced blocks, the last with a query in it;
3. of the queries in the text that are set off (at the start of a line, after a colon, a quote or a
   Markdown mark), the longest;
4. of the queries within a sentence, the longest;
5. what is there, though it is no query: the last block, or else the text to its first semicolon or
   blank line.

A subquery is never taken out of a query that cannot be parsed.
"""

from __future__ import annotations

import itertools
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Final

from mtad.tasks.answers import Block, blocks, without_reasoning
from mtad.tasks.sql_match import end_of_statement, first_statement, statements, tokens
from mtad.tasks.sql_run import is_planned_quickly

_START: Final = re.compile(r"(?<![\w.])(?:\(\s*)*(?:select|with|values)\b", re.IGNORECASE)
_SET_OFF: Final = re.compile(
    r"(?:(?:\A|\n)[\s>#*_\-\d.)]*|:\s*|[`*\"'“])(?:`+(?:sql\w*)?|[*_\"'“])*\s*\Z"
)
_END: Final = re.compile(r"\n\s*\n|\n|`+|\*\*|[\"'”]|[.,!?)](?=\s|\Z)")
_LONE_WORD: Final = re.compile(r"\n\s*(?!asc\b|desc\b)\w+\W*\Z", re.IGNORECASE)
_TICKS: Final = re.compile(r"`+(?=(?:sql\w*\s+)?\Z)")
_BLANK_LINE: Final = re.compile(r"\n\s*\n")
_SOURCE: Final = re.compile(r"\b(?:from|values)\b", re.IGNORECASE)
_SYNTAX: Final = re.compile(r"syntax error|incomplete input|unrecognized token")
_MAX_LENGTH: Final = 4_000
_MAX_STARTS: Final = 100
_MAX_ENDS: Final = 100
_SET_OPERATORS: Final = ("", "union", "all", "intersect", "except")


def find_query(answer: str) -> str:
    """The query in an answer as one statement without comments; see the order above."""
    text = without_reasoning(answer)
    fenced = sorted(blocks(text), key=lambda block: block.language.startswith("sql"))
    found = next(filter(None, map(_in_block, reversed(fenced))), "") or _in_text(text)
    return found or first_statement(_unread(fenced, text))


def is_query(statement: str) -> bool:
    """Whether SQLite can parse this as a query; whether its tables exist does not matter."""
    if not _START.match(statement):
        return False
    if not is_planned_quickly(statement):
        return True
    with closing(sqlite3.connect(":memory:")) as empty:
        try:
            empty.execute(f"EXPLAIN {statement}")
        except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
            return not _SYNTAX.search(str(error))
    return True


def _in_block(block: Block) -> str:
    """The first query of a block."""
    return next(filter(None, map(_readable, statements(block.text))), "")


def _readable(statement: str) -> str:
    """The statement if it is a query, also if its operands stand in parentheses; else ""."""
    if is_query(statement):
        return statement
    if not statement.startswith("("):
        return ""
    unwrapped = _with_plain_operands(statement)
    return unwrapped if is_query(unwrapped) else ""


def _with_plain_operands(statement: str) -> str:
    """`(Q) UNION (Q)`, which SQLite cannot parse, as `SELECT * FROM (Q) UNION …`, which it can."""
    parts, depth, before = [], 0, ""
    for _, text in tokens(statement):
        is_operand = text == "(" and depth == 0 and before in _SET_OPERATORS
        parts.append(f" SELECT * FROM {text}" if is_operand else text)
        depth += (text == "(") - (text == ")")
        before = before if text.isspace() else text.lower()
    return "".join(parts).strip()


def _in_text(text: str) -> str:
    """The longest query of the text; those within a sentence count where no other is there."""
    starts = [*itertools.islice(_START.finditer(text), _MAX_STARTS)]
    set_off = [match for match in starts if _SET_OFF.search(text[: match.start()])]
    for group in (set_off, [match for match in starts if match[0][0] != "("]):
        found = [_at(text, match.start()) for match in group]
        if longest := max(found, key=len, default=""):
            return longest
    return ""


def _at(text: str, start: int) -> str:
    """The longest query that starts there, or ""; within backticks it ends with them."""
    ticks = _TICKS.search(text[:start])
    text = text[start : start + _MAX_LENGTH]
    text = text.split(ticks[0])[0] if ticks else text
    for part in _prefixes(text[: end_of_statement(text)]):
        if query := _readable(part):
            word = _LONE_WORD.search(part)  # after a query, any word reads as an alias
            return first_statement((word and _readable(part[: word.start()])) or query)
    return ""


def _prefixes(text: str) -> Iterator[str]:
    """The text, and then its beginnings up to each place where a query may end, longest first.

    A line may end a query only behind its FROM: a misspelt FROM must not cut the query short.
    """
    yield text
    for match in reversed([*itertools.islice(_END.finditer(text), _MAX_ENDS)]):
        if match[0] != "\n" or _SOURCE.search(text, 0, match.start()):
            yield text[: match.start()]


def _unread(fenced: list[Block], text: str) -> str:
    """What stands where a query should."""
    return fenced[-1].text if fenced else _BLANK_LINE.split(text.strip())[0]

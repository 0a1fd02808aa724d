"""Gold queries changed in known ways, as models get them nearly right."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

_HEAD: Final = re.compile(r"\s*select\s+(distinct\s+)?(.+?)\s+from\s", re.IGNORECASE | re.DOTALL)
_ORDER: Final = re.compile(r"\border\s+by\b(?!.*\border\s+by\b).*?(?=\blimit\b|\Z)", re.I | re.S)


def _columns(query: str) -> list[str]:
    """The columns of the first SELECT, or none where they hold a comma of their own."""
    head = _HEAD.match(query)
    return [] if not head or "(" in head[2] else [part.strip() for part in head[2].split(",")]


def _with_columns(query: str, columns: list[str]) -> str:
    head = _HEAD.match(query)
    return query if not head else query[: head.start(2)] + ", ".join(columns) + query[head.end(2) :]


def _reversed_columns(query: str) -> str:
    return _with_columns(query, _columns(query)[::-1]) if len(_columns(query)) > 1 else query


def _first_column(form: str) -> Callable[[str], str]:
    def changed(query: str) -> str:
        columns = _columns(query)
        is_plain = (
            columns
            and columns[0] != "*"
            and not re.search(r"\b(union|except|intersect)\b", query, re.I)
        )
        return _with_columns(query, [form.format(columns[0]), *columns[1:]]) if is_plain else query

    return changed


def _outside_quotes(change: Callable[[str], str]) -> Callable[[str], str]:
    def changed(query: str) -> str:
        parts = re.findall(r"'[^']*'|\"[^\"]*\"|[^'\"]+", query)
        return "".join(part if part[0] in "'\"" else change(part) for part in parts)

    return changed


CHANGES: Final[dict[str, Callable[[str], str]]] = {
    "nothing": lambda query: query,
    "case of keywords and names": _outside_quotes(str.lower),
    "white space": _outside_quotes(lambda part: re.sub(r"\s+", "\n\t ", part)),
    "columns in another order": _reversed_columns,
    "DISTINCT added": lambda query: re.sub(
        r"^\s*select\s+(?!distinct)", "SELECT DISTINCT ", query, flags=re.I
    ),
    "DISTINCT removed": lambda query: re.sub(
        r"^\s*select\s+distinct\s", "SELECT ", query, flags=re.I
    ),
    "ORDER BY removed": lambda query: _ORDER.sub("", query),
    "ORDER BY added": lambda query: (
        query if re.search(r"order\s+by|limit", query, re.I) else f"{query} ORDER BY 1"
    ),
    "LIMIT 1 added": lambda query: (
        query if re.search(r"limit", query, re.I) else f"{query} LIMIT 1"
    ),
    "other aliases": lambda query: re.sub(r"\bT(\d)\b", r"other\1", query),
    "a derived table": lambda query: f"SELECT * FROM ({query})",
    "a WITH clause": lambda query: f"WITH found AS ({query}) SELECT * FROM found",
    "the first column as NULL": _first_column("NULL"),
    "the first column rounded": _first_column("round({})"),
    "the first column as text": _first_column("'' || {}"),
    "the first column twice": _first_column("{0}, {0}"),
    "1 = 1 added": lambda query: re.sub(
        r"\bwhere\b(?!.*\bwhere\b)", "WHERE 1 = 1 AND", query, flags=re.I | re.S
    ),
    "a misspelt table": lambda query: re.sub(r"\bfrom\s+(\w)", r"FROM no_\1", query, flags=re.I),
}

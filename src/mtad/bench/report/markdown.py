"""Tables as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable

from mtad.bench.report.table import Table

_SPECIAL = re.compile(r"[\\|`*<>&\[\]]")


def markdown(table: Table, *, level: int = 2) -> str:
    """A section: title, note and table."""
    parts = [f"{'#' * level} {escaped(table.title)}", escaped(table.note), grid(table)]
    return "\n\n".join(part for part in parts if part) + "\n"


def grid(table: Table) -> str:
    """The table alone."""
    rules = ["---"] * table.num_labels + ["---:"] * (len(table.headers) - table.num_labels)
    header, *rows = (_line(map(escaped, cells)) for cells in (table.headers, *table.rows))
    return "\n".join([header, _line(rules), *rows])


def escaped(text: str) -> str:
    """The text with every character escaped that Markdown or HTML would interpret.

    Square brackets stay, as long as no parenthesis follows that would make them a link.
    """
    flat = " ".join(text.split())
    return _SPECIAL.sub(lambda match: _replacement(match.group(), flat, match.end()), flat)


def _replacement(mark: str, text: str, end: int) -> str:
    if mark in "[]":
        return f"\\{mark}" if mark == "]" and text[end : end + 1] in ("(", "[") else mark
    return {"<": "&lt;", ">": "&gt;", "&": "&amp;"}.get(mark, f"\\{mark}")


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"

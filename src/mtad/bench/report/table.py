"""A table as a value, and how numbers are written in its cells. Knows no file format."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from mtad.bench.statistics import Estimate

NONE: Final = "–"
UNAVAILABLE: Final = "unavailable"


@dataclass(frozen=True)
class Table:
    """Rows of text under headers; every format of a report is made of these.

    Attributes:
        title: of the section.
        headers: of the columns.
        rows: cells, as many as headers.
        note: an explanation below the title.
        num_labels: leading columns that hold text and are left-aligned.
        slug: of the section, for links.
    """

    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    num_labels: int = 1
    slug: str = ""


def table_of(
    title: str,
    rows: Iterable[Mapping[str, str]],
    note: str = "",
    *,
    num_labels: int = 1,
    slug: str = "",
) -> Table:
    """A table of rows that each hold their cells by header."""
    rows = list(rows)
    cells = [list(row.values()) for row in rows]
    return Table(title, list(rows[0]) if rows else [], cells, note, num_labels, slug)


def formatted(estimate: Estimate, digits: int, factor: float = 1.0, sign: str = "") -> str:
    """A cell: the value with its interval, or a dash.

    Args:
        estimate: what to write.
        digits: decimals.
        factor: by which it is multiplied.
        sign: "+" for differences.
    """
    if estimate.value is None:
        return NONE
    text = number(estimate.value * factor, digits, sign)
    if estimate.low is None or estimate.high is None:
        return text
    low, high = (number(end * factor, digits, sign) for end in (estimate.low, estimate.high))
    return f"{text} [{low}, {high}]"


def number(value: float, digits: int, sign: str = "") -> str:
    """The value with that many decimals; a small one without sign keeps two significant digits.

    Args:
        value: what to write.
        digits: decimals.
        sign: "+" to write the sign of a positive number, too.
    """
    text = f"{value:{sign}.{digits}f}"
    if value and not sign and abs(value) < 10**-digits:
        text = f"{value:.2g}"
    return text.replace("-", "−")


def all_digits(*values: float | None) -> list[str]:
    """The cells of a CSV file; empty where there is no value."""
    return ["" if value is None else f"{value:.6g}" for value in values]

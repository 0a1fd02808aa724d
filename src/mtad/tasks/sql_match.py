"""Whether two SQL results are equal: by Spider's official rule, or by that of MTAD's authors.

The official rule is that of `exec_eval.py` in github.com/taoyds/test-suite-sql-eval, on one
database. Cells are compared as Python compares them: 1 equals 1.0, text never equals a number, NULL
equals NULL. The official script also sorts the cells of each row by their text as a shortcut, and
this rejects a few equal results where one side has 1 and the other 1.0; here they are equal.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

from mtad.tasks.sql_run import Row

_TOKEN: Final = re.compile(
    r"""(?P<comment>--[^\n]*|/\*.*?(?:\*/|\Z))"""
    r"""|'(?:[^']|'')*'?|"(?:[^"]|"")*"?|`[^`]*`?|\[[^\]]*\]?"""
    r"""|(?P<distinct>\bdistinct\b(?!\s+from\b))|(?P<end>;)|\w+|\s+|.""",
    re.IGNORECASE | re.DOTALL,
)
_CURRENT_YEAR: Final = re.compile(r"year\s*\(\s*curdate\s*\(\s*\)\s*\)", re.IGNORECASE)
_BREAK: Final = re.compile(r"[\n\r\t]")
_MAX_ROW_VISITS: Final = 20_000_000


class TooManyOrdersError(Exception):
    """The columns of two results can be paired in too many ways to try."""


def first_statement(sql: str) -> str:
    """The text up to the first semicolon outside quotes, in one line and without comments."""
    return next(_statements(sql))


def statements(sql: str) -> list[str]:
    """The statements of a text, each in one line and without comments."""
    return [statement for statement in _statements(sql) if statement]


def _statements(sql: str) -> Iterator[str]:
    """What stands before, between and behind the semicolons outside quotes; the first always."""
    parts: list[str] = []
    for kind, text in tokens(sql):
        if kind == "end":
            yield "".join(parts).strip()
            parts = []
        else:
            is_space = kind == "comment" or text.isspace()
            parts += [" "] * (parts[-1:] != [" "]) if is_space else [text]
    yield "".join(parts).strip()


def end_of_statement(sql: str) -> int:
    """The place of the first semicolon outside quotes, or the length of the text."""
    ends = (match.start() for match in _TOKEN.finditer(sql) if match.lastgroup == "end")
    return next(ends, len(sql))


def one_line(statement: str) -> str:
    """The statement without line ends and tabs: in the official script's files they end a query."""
    return "".join(_unbroken(text) for _, text in tokens(statement))


def _unbroken(text: str) -> str:
    """A token; in a text of SQL, line ends and tabs become calls of char()."""
    if text[0] != "'" or not _BREAK.search(text):
        return _BREAK.sub(" ", text)
    return "(" + _BREAK.sub(lambda match: f"'||char({ord(match[0])})||'", text) + ")"


def tokens(sql: str) -> Iterator[tuple[str | None, str]]:
    """The kind (comment, distinct, end or none) and the text of each token."""
    return ((match.lastgroup, match.group()) for match in _TOKEN.finditer(sql))


def prepared(sql: str, keep_distinct: bool) -> str:
    """The query as the official script runs it.

    Operators torn apart are joined (`> =`), MySQL's current year becomes 2020, and unless
    `keep_distinct` every DISTINCT is taken out, that of COUNT(DISTINCT …) too.
    """
    for torn in ("> =", "< =", "! ="):
        sql = sql.replace(torn, torn.replace(" ", ""))
    sql = _CURRENT_YEAR.sub("2020", sql)
    if keep_distinct:
        return sql
    return "".join(text for kind, text in tokens(sql) if kind != "distinct")


def is_ordered(gold_query: str) -> bool:
    """Whether the order of rows counts: the official script looks for these two words."""
    return "order by" in gold_query.lower()


def equal_official(gold: Sequence[Row], found: Sequence[Row], ordered: bool) -> bool:
    """Whether some order of the columns of `found` makes it equal to `gold`.

    As lists of rows if `ordered`, else as multisets. Two empty results are equal.

    Raises:
        TooManyOrdersError: the search for the order of the columns was given up.
    """
    if not gold and not found:
        return True
    if len(gold) != len(found) or len(gold[0]) != len(found[0]):
        return False
    wanted, given = list(zip(*gold, strict=True)), list(zip(*found, strict=True))
    if ordered:
        return Counter(wanted) == Counter(given)
    return _Pairing(wanted, given).exists()


class _Pairing:
    """A search for the given column that stands for each wanted one.

    A first part of the wanted columns is paired only in ways that make their rows equal as
    multisets, so that a wrong start is left at once.
    """

    def __init__(self, wanted: list[Row], given: list[Row]) -> None:
        self._wanted, self._given = wanted, given
        self._counts = [Counter(column) for column in given]
        self._visits = 0

    def exists(self, taken: tuple[int, ...] = ()) -> bool:
        """Whether the columns after those that are `taken` can be paired."""
        size = len(taken) + 1
        if size > len(self._wanted):
            return True
        wanted_rows = Counter(zip(*self._wanted[:size], strict=True))
        return any(
            self._fits(wanted_rows, (*taken, number)) and self.exists((*taken, number))
            for number in self._candidates(taken)
        )

    def _candidates(self, taken: tuple[int, ...]) -> Iterator[int]:
        """Free columns with the right cells; of identical ones the first, as all do the same."""
        column = Counter(self._wanted[len(taken)])
        seen: set[Row] = set()
        for number, given in enumerate(self._given):
            if number not in taken and given not in seen and self._counts[number] == column:
                seen.add(given)
                yield number

    def _fits(self, wanted_rows: Counter[Row], taken: tuple[int, ...]) -> bool:
        self._visits += len(self._given[0])
        if self._visits > _MAX_ROW_VISITS:
            raise TooManyOrdersError("too many ways to order the columns of the result")
        return Counter(zip(*(self._given[n] for n in taken), strict=True)) == wanted_rows


def equal_authors(gold: Sequence[Row], found: Sequence[Row]) -> bool:
    """Whether both have the same set of rows once the cells of each row are sorted as text.

    Neither the order nor the number of equal rows counts, nor which column a cell is in; 1 and
    1.0 differ. The authors compare raw bytes where text is no UTF-8, and here it was decoded.
    """
    return _loose(gold) == _loose(found)


def _loose(rows: Sequence[Row]) -> set[Row]:
    return {tuple(sorted(map(repr, row))) for row in rows}

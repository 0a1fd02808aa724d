"""Runs a query that a model wrote: on a copy of the database, read-only, within limits.

The copy is in memory, so that nothing a query does could reach the file. What bounds a query is its
time, the number and size of its rows, the length of any one text, and how often its WITH clauses
may be pasted into each other. What SQLite sorts or deduplicates on the way may lie in temporary
files of its own, which only the time limit bounds. A single call of a function is not interrupted;
the length of its texts bounds it.
"""

from __future__ import annotations

import math
import re
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from mtad.errors import DataError

Row: TypeAlias = tuple[Any, ...]

_ALLOWED: Final = {
    sqlite3.SQLITE_SELECT,
    sqlite3.SQLITE_READ,
    sqlite3.SQLITE_FUNCTION,
    sqlite3.SQLITE_RECURSIVE,
}
_FORBIDDEN_FUNCTIONS: Final = {
    "edit",
    "format",
    "fts3_tokenizer",
    "load_extension",
    "printf",
    "randomblob",
    "readfile",
    "writefile",
    "zeroblob",
}
# one call of trim, replace or LIKE takes up to the product of two lengths, and is not interrupted:
# so it stays below a second; a data set's longest text has to fit
_MAX_LENGTH: Final = 50_000
_SQLITE_LIMITS: Final = {
    sqlite3.SQLITE_LIMIT_LENGTH: _MAX_LENGTH,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 20_000,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 1_000,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
}
_MAX_RESULT_BYTES: Final = 64 * 2**20
_BYTES_PER_CELL: Final = 32
_MAX_EXPANSIONS: Final = 10_000
_WATCH_S: Final = 0.05
_NAME: Final = r"""((?<!\w)\w++|"[^"]*"|`[^`]*`|\[[^\]]*\])"""
_DEFINITION: Final = re.compile(
    _NAME + r"\s*(?:\([^()]*\)\s*)?\bas\s*(?:not\s+)?(?:materialized\s*)?\(",
    re.IGNORECASE,
)


class QueryError(Exception):
    """A query failed, tried something other than reading, or went beyond a limit."""


@dataclass(frozen=True)
class Limits:
    """The limits of one query.

    Attributes:
        timeout_s: seconds.
        max_rows: rows of its result.
    """

    timeout_s: float
    max_rows: int


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """A private copy of the database in memory, closed at the end.

    Text that is no UTF-8 loses the bytes in question, as in Spider's own script.

    Raises:
        DataError: there is no such file, or it is no SQLite database.
    """
    with closing(sqlite3.connect(":memory:")) as copy:
        _load(path, copy)
        _set_up(copy)
        yield copy


@contextmanager
def built(create: str, table: str, rows: Sequence[Sequence[Any]]) -> Iterator[sqlite3.Connection]:
    """A database of one table in memory, closed at the end.

    Args:
        create: its CREATE TABLE statement.
        table: its name.
        rows: its rows, each with a value per column.

    Raises:
        DataError: the statement is no CREATE TABLE of that name, or a row does not fit it.
    """
    with closing(sqlite3.connect(":memory:")) as database:
        try:
            database.execute(create)
            for row in rows:
                places = ", ".join("?" * len(row))
                database.execute(f'INSERT INTO "{table}" VALUES ({places})', row)
        except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
            raise DataError(f"the table {table!r} cannot be made of {create!r}: {error}") from error
        _set_up(database)
        yield database


def _set_up(database: sqlite3.Connection) -> None:
    database.execute("PRAGMA temp_store = FILE")
    database.text_factory = lambda raw: raw.decode(errors="ignore")


def _load(path: Path, copy: sqlite3.Connection) -> None:
    """Copy the file; `immutable` keeps SQLite from locking it or writing beside it."""
    if not path.is_file():
        raise DataError(f"there is no database {path}; it belongs to the data set's own download")
    try:
        with closing(
            sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)
        ) as file:
            file.backup(copy)
    except sqlite3.Error as error:
        raise DataError(f"{path} is not a SQLite database ({error}); get it again") from error


def create_statements(database: sqlite3.Connection) -> list[str]:
    """The CREATE TABLE statements in the order of creation, each with its semicolon."""
    found = database.execute(
        "SELECT sql FROM sqlite_master WHERE type = 'table' AND sql IS NOT NULL"
        " AND name NOT LIKE 'sqlite~_%' ESCAPE '~' ORDER BY rowid"
    )
    return [f"{sql.rstrip().rstrip(';')};" for (sql,) in found]


def run(database: sqlite3.Connection, query: str, limits: Limits) -> list[Row]:
    """The rows that the query returns; the connection is read-only from then on.

    Raises:
        QueryError: the query is wrong, tries anything but reading, or exceeds a limit.
    """
    if not is_planned_quickly(query):
        raise QueryError("its WITH clauses use each other too often")
    for limit, value in _SQLITE_LIMITS.items():
        database.setlimit(limit, value)
    database.set_authorizer(_authorize)
    with _watched(database, limits.timeout_s) as late:
        try:
            return _fetched(database.execute(query), limits.max_rows)
        except (sqlite3.Error, sqlite3.Warning, ValueError, MemoryError) as error:
            reason = str(error) or type(error).__name__
            took = f"took longer than {limits.timeout_s:g} s"
            raise QueryError(took if late.is_set() else reason) from error


@contextmanager
def _watched(database: sqlite3.Connection, timeout_s: float) -> Iterator[threading.Event]:
    """Whether the time is over, while a thread interrupts what still runs then.

    It does so again and again, for SQLite forgets an interruption that comes before a query starts.
    """
    done, late = threading.Event(), threading.Event()

    def watch() -> None:
        wait = timeout_s
        while not done.wait(wait):
            late.set()
            database.interrupt()
            wait = _WATCH_S

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield late
    finally:
        done.set()
        thread.join()


def is_planned_quickly(query: str) -> bool:
    """Whether SQLite can plan the query without pasting WITH clauses until memory is full."""
    return not _DEFINITION.search(query) or num_expansions(query) <= _MAX_EXPANSIONS


def num_expansions(query: str) -> int:
    """At most how often SQLite copies one WITH clause while it plans the query.

    It pastes a clause in wherever it is used. A chain of clauses that use each other twice
    doubles with each link and would fill the memory before the first step is run.
    """
    defined = Counter(_plain(match[1]) for match in _DEFINITION.finditer(query))
    used = Counter(_plain(match[1]) for match in re.finditer(_NAME + r"(?!\s*\.)", query))
    return math.prod(max(1, used[name] - times) ** times for name, times in defined.items())


def _plain(name: str) -> str:
    return name.strip('"`[]').lower()


def _authorize(action: int, first: str | None, second: str | None, *_: str | None) -> int:
    """Allow reads, and all functions but those that reach files or fill memory.

    One call of `printf` or `format` can pad for seconds and cannot be interrupted; Spider's own
    queries use neither.
    """
    if action == sqlite3.SQLITE_FUNCTION and (second or "").lower() in _FORBIDDEN_FUNCTIONS:
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK if action in _ALLOWED else sqlite3.SQLITE_DENY


def _fetched(cursor: sqlite3.Cursor, max_rows: int) -> list[Row]:
    """All rows, or an error once there are too many or they are too large."""
    if cursor.description is None:
        raise QueryError("no query: nothing in it returns rows")
    rows: list[Row] = []
    num_bytes = 0
    for row in cursor:
        num_bytes += sum(map(_size, row))
        if len(rows) == max_rows or num_bytes > _MAX_RESULT_BYTES:
            raise QueryError(f"more than {max_rows} rows or {_MAX_RESULT_BYTES >> 20} MiB")
        rows.append(row)
    return rows


def _size(cell: Any) -> int:
    return _BYTES_PER_CELL + (len(cell) if isinstance(cell, str | bytes) else 0)

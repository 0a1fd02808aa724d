"""Whether a completion is right, for an item of a test set.

SQL is run on a private in-memory database where it can only read. Python is compared, never run.
"""

import ast
import itertools
import sqlite3
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

Rows = list[tuple[Any, ...]]

_ALLOWED: Final = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION}
_FUNCTIONS: Final = {
    "abs",
    "avg",
    "count",
    "length",
    "lower",
    "max",
    "min",
    "round",
    "sum",
    "upper",
}
_STEPS_PER_CHECK: Final = 1_000
_MAX_CHECKS: Final = 200


def score(item: dict[str, Any], completion: str) -> bool:
    """Whether the completion answers the item."""
    scorers = {"sql": _score_sql, "python": _score_python, "chat": _score_chat}
    return scorers[item["task"]](item, completion)


def run_query(schema_sql: str, query: str) -> Rows:
    """The rows the query returns in a fresh database made by `schema_sql`.

    Raises:
        sqlite3.Error: if the query is wrong, tries anything but reading, or takes too long.
    """
    connection = sqlite3.connect(":memory:")
    try:
        connection.executescript(schema_sql)
        connection.set_authorizer(_authorize)
        connection.set_progress_handler(_limit(), _STEPS_PER_CHECK)
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def _authorize(action: int, first: str | None, second: str | None, *_: str | None) -> int:
    """Allow reads, and only harmless functions."""
    if action == sqlite3.SQLITE_FUNCTION and (second or "").lower() not in _FUNCTIONS:
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK if action in _ALLOWED else sqlite3.SQLITE_DENY


def _limit() -> Callable[[], bool]:
    """A progress handler that stops a query after so many checks."""
    checks = itertools.count(1)
    return lambda: next(checks) > _MAX_CHECKS


def _score_sql(item: dict[str, Any], completion: str) -> bool:
    """Whether both return the same rows; their order counts where the reference orders them."""
    try:
        found = run_query(item["schema_sql"], completion)
    except (sqlite3.Error, sqlite3.Warning, ValueError):
        return False
    wanted = run_query(item["schema_sql"], item["reference"])
    ordered = "ORDER BY" in item["reference"]
    return found == wanted if ordered else Counter(found) == Counter(wanted)


def _score_python(item: dict[str, Any], completion: str) -> bool:
    """Whether both are the same function, formatting aside."""
    return _parsed(item["prompt"] + completion) == _parsed(item["prompt"] + item["reference"])


def _parsed(source: str) -> str | None:
    """The syntax tree as text, None where there is none."""
    try:
        with warnings.catch_warnings(action="ignore"):
            return ast.dump(ast.parse(source))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _score_chat(item: dict[str, Any], completion: str) -> bool:
    """Whether both have the same words; spaces and letter case do not count."""
    wanted: str = item["reference"]
    return completion.casefold().split() == wanted.casefold().split()

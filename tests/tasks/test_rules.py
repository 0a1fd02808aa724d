"""Whoever changes how answers are scored is asked whether the version of the rules has to rise."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from mtad import tasks

_FOLDER = Path(tasks.__file__).parent
_ALL = "mtad.tasks.perplexity"
"""Counts repeated 4-grams for the scores of all tasks."""

KNOWN = {
    "spider": (1, "23d44fdf8cc7"),
    "human_eval": (1, "d41cb87fedd2"),
    "mt_bench": (1, "d8e2fe660a6c"),
    "gsm8k": (1, "6ad0d09f617b"),
    "spec_bench": (2, "22cb1b2173f4"),
    "perplexity": (1, "562ed1c39fb2"),
    "json_extraction": (1, "bd3d6db4b21f"),
    "closed_book": (1, "9f10da2a64af"),
    "table_sql": (1, "5321d5d68750"),
}
"""The version of each task's rules and the hash of its code."""


def _files(module: str, found: set[Path]) -> set[Path]:
    """The files of `mtad.tasks` that a module is made of."""
    path = _FOLDER.joinpath(*module.split(".")[2:])
    if path.is_dir() and path != _FOLDER:  # the sandbox, which starts a file as a program
        return found | {*path.glob("*.py")}
    path = path.with_suffix(".py")
    if path in found or not path.exists():  # it may be a name within a module
        return found
    found.add(path)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mtad.tasks"):
            for inside in (node.module, *(f"{node.module}.{name.name}" for name in node.names)):
                found |= _files(str(inside), found)
    return found


def _words(path: Path) -> Iterator[str]:
    """The code of a file without comments and docstrings, the same in every version of Python."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else ():
            is_text = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
            if is_text:
                statement.value = ast.Constant(None)
        yield type(node).__name__
        for name, value in ast.iter_fields(node):
            if isinstance(value, str | int | float | bytes):
                yield f"{name}={value!r}"


def _hash(name: str) -> str:
    files = sorted(_files(_ALL, _files(f"mtad.tasks.{name}", set())))
    words = (word for path in files for word in (path.name, *_words(path)))
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:12]


@pytest.mark.parametrize("name", tasks.names())
def test_changed_rules_have_another_version(name: str) -> None:
    now = (tasks.find(name).rules, _hash(name))
    assert now == KNOWN[name], (
        f"the code of {name} has changed: where an answer may get another score now, raise `rules` "
        f"in its class, so that scores made before are made again; then write {now} in here"
    )


def test_the_code_of_a_task_is_found_whole() -> None:
    names = {path.name for path in _files("mtad.tasks.spider", set())}
    assert {"spider.py", "sql_answer.py", "sql_run.py", "sql_match.py", "task.py"} <= names
    assert "supervisor.py" in {p.name for p in _files("mtad.tasks.human_eval", set())}

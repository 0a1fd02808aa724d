"""The registry of tasks: a name and the class that it stands for."""

from __future__ import annotations

import importlib
from typing import Final

from mtad.core.names import did_you_mean
from mtad.tasks.task import BUNDLED, Exported, Item, Score, Task

__all__ = ["BUNDLED", "Exported", "Item", "Score", "Task", "find", "names"]

_CLASSES: Final = {
    "spider": "Spider",
    "human_eval": "HumanEval",
    "mt_bench": "MTBench",
    "gsm8k": "GSM8K",
    "spec_bench": "SpecBench",
    "json_extraction": "JSONExtraction",
    "closed_book": "ClosedBook",
    "table_sql": "TableSQL",
    "perplexity": "Perplexity",
}


def names() -> list[str]:
    """Names of the tasks that come with mtad."""
    return [*_CLASSES]


def find(name: str) -> type[Task]:
    """The task class called `name`.

    Raises:
        ValueError: no such task; the message lists the known ones.
    """
    if name not in _CLASSES:
        near = did_you_mean(name, _CLASSES)
        raise ValueError(f"there is no task {name!r}{near}; known tasks: {', '.join(_CLASSES)}")
    cls: type[Task] = getattr(importlib.import_module(f"{__name__}.{name}"), _CLASSES[name])
    return cls

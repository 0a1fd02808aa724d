"""From samples.jsonl to scores.jsonl; needs the data sets and no model."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mtad.bench.files import (
    SCORES,
    SCORING,
    Rows,
    read_json,
    read_samples,
    read_scores,
    write_json,
    write_text,
)
from mtad.bench.recipe import Recipe
from mtad.bench.sample import Sample, Scored
from mtad.errors import DataError
from mtad.tasks import Item, Task
from mtad.tasks.perplexity import repeated_4grams

_AT_ONCE = 256
_NOT_A_RULE = ("data", "allow_code_execution", "allow_weak_isolation", "judge_api_key_env")


def score_folder(
    recipe: Recipe, folder: Path, tick: Callable[[int, int], None] = lambda done, total: None
) -> int:
    """Score what has no score yet; the number of new rows.

    Scores made with other options of the task are made again.

    Args:
        recipe: the tasks and their options.
        folder: where samples.jsonl is.
        tick: told how many of how many rows are done.

    Raises:
        DataError: samples.jsonl is missing or damaged, or names items that the data set lacks.
        IsolationError, JudgeError: scoring is not allowed or not possible.
    """
    samples = read_samples(folder)
    tasks = {name: plan.task for name, plan in recipe.tasks.items()}
    done = _kept(folder, tasks)
    todo = [sample for sample in samples if sample.key not in done]
    used = {sample.task for sample in todo}
    items = {name: _items(tasks, name) for name in sorted(used)}
    for name in sorted(used):
        tasks[name].check()
    write_json(folder / SCORING, {name: scoring_options(task) for name, task in tasks.items()})
    with Rows(folder / SCORES) as rows, ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(todo), _AT_ONCE):
            batch = todo[start : start + _AT_ONCE]
            scored = pool.map(lambda s: _scored(tasks[s.task], items[s.task], s), batch)
            rows.append(row.as_dict() for row in scored)
            tick(start + len(batch), len(todo))
    return len(todo)


def scoring_options(task: Task) -> dict[str, Any]:
    """The options of a task that a score depends on, for JSON."""
    names = [f.name for f in dataclasses.fields(task) if f.name not in _NOT_A_RULE]
    return {name: getattr(task, name) for name in names}


def _kept(folder: Path, tasks: Mapping[str, Task]) -> set[Any]:
    """The keys of scores that stay; those made by another rule are taken out of the file."""
    if not (folder / SCORES).exists() and not (folder / f"{SCORES}.xz").exists():
        return set()
    before, scores = read_json(folder / SCORING), read_scores(folder)
    stale = {n for n, task in tasks.items() if n in before and before[n] != scoring_options(task)}
    kept = [row for row in scores if row.task not in stale]
    if len(kept) < len(scores):
        lines = [json.dumps(row.as_dict(), ensure_ascii=False) + "\n" for row in kept]
        write_text(folder / SCORES, "".join(lines))
    return {row.key for row in kept}


def _items(tasks: Mapping[str, Task], name: str) -> dict[str, Item]:
    if name not in tasks:
        raise DataError(f"the samples have rows of {name!r}, which is not in the recipe; add it")
    return {item.id: item for item in tasks[name].prompts()}


def _scored(task: Task, items: Mapping[str, Item], sample: Sample) -> Scored:
    if sample.item not in items:
        raise DataError(
            f"the data set of {sample.task} has no item {sample.item!r}; the samples were made "
            "with another one"
        )
    score = task.score(items[sample.item], sample.answers)
    repeated, total = repeated_4grams(sample.token_ids)
    return Scored(
        stage=sample.stage,
        task=sample.task,
        item=sample.item,
        run=sample.run,
        seed=sample.seed,
        score=score.value,
        detail=score.detail,
        num_4grams=total,
        num_repeated_4grams=repeated,
    )

"""From samples.jsonl to scores.jsonl; needs the data sets and no model."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from mtad.bench.conditions import num_cpus
from mtad.bench.files import (
    SCORES,
    SCORING,
    open_rows,
    read_json,
    read_samples,
    read_scores,
    write_json,
)
from mtad.bench.plan import Recipe
from mtad.bench.recipe import without_permissions
from mtad.bench.sample import Sample, Scored
from mtad.errors import DataError
from mtad.jsonl import JsonLines
from mtad.tasks import Item, Task
from mtad.tasks.perplexity import repeated_4grams

_AT_ONCE = 256
_NUM_WAITING = 8
_NO_RULES = ("data", "judge_api_key_env", "judge_base_url", "judge_max_retries", "judge_timeout_s")
"""Options of how scoring runs, which no score depends on."""


def score_folder(
    recipe: Recipe, folder: Path, tick: Callable[[int, int], None] = lambda done, total: None
) -> int:
    """Score what has no score yet; the number of new rows.

    Scores made with other options of the task, or by another version of its rules, are made again.

    Args:
        recipe: the tasks and their options.
        folder: where samples.jsonl is.
        tick: called with the rows done and all rows.

    Raises:
        DataError: samples.jsonl is missing or damaged, or names items that the data set lacks.
        IsolationError, JudgeError: scoring is not allowed or not possible.
    """
    samples = read_samples(folder)
    tasks = {name: plan.task for name, plan in recipe.tasks.items()}
    kept, is_stale = _kept(folder, tasks)
    done = {row.key for row in kept}
    todo = [sample for sample in samples if sample.key not in done]
    used = sorted({sample.task for sample in todo})
    items = {name: _items(tasks, name) for name in used}
    for name in used:
        tasks[name].check()
    if not todo and not is_stale:
        return 0
    with open_rows(folder / SCORES) as rows:
        if is_stale:
            rows.replace(row.as_dict() for row in kept)
        write_json(folder / SCORING, {name: scoring_options(task) for name, task in tasks.items()})
        num_done = 0
        for batch in _batches(todo):
            task = tasks[batch[0].task]
            _score_batch(task, items[batch[0].task], batch, rows)
            num_done += len(batch)
            tick(num_done, len(todo))
    return len(todo)


def _batches(samples: Sequence[Sample]) -> Iterator[list[Sample]]:
    """Samples of one task at a time, some hundreds together."""
    ordered = sorted(samples, key=lambda sample: sample.task)
    for _, group in itertools.groupby(ordered, key=lambda sample: sample.task):
        rest = list(group)
        for start in range(0, len(rest), _AT_ONCE):
            yield rest[start : start + _AT_ONCE]


def _score_batch(
    task: Task, items: Mapping[str, Item], batch: Sequence[Sample], rows: JsonLines
) -> None:
    """Score a batch; what was scored before an error or Ctrl-C is kept."""
    pool = ThreadPoolExecutor(_NUM_WAITING if task.is_waiting else num_cpus())
    futures = [pool.submit(_scored, task, items, sample) for sample in batch]
    try:
        for future in as_completed(futures):
            future.result()
    finally:
        pool.shutdown(cancel_futures=True)
        fine = [f for f in futures if not f.cancelled() and f.exception() is None]
        rows.append(future.result().as_dict() for future in fine)


def scoring_options(task: Task) -> dict[str, Any]:
    """What a task's scores depend on, for JSON: the version of its rules, and options."""
    options = without_permissions({"tasks": {task.name: vars(task)}})["tasks"][task.name]
    fields = {field.name for field in dataclasses.fields(task)}
    chosen = {n: options[n] for n in options if n in fields and n not in _NO_RULES}
    return {"rules": task.rules} | chosen


def _kept(folder: Path, tasks: Mapping[str, Task]) -> tuple[list[Scored], bool]:
    """The scores that are kept, and whether others were dropped as made by another rule."""
    if not (folder / SCORES).exists() and not (folder / f"{SCORES}.xz").exists():
        return [], False
    before, scores = read_json(folder / SCORING), read_scores(folder)
    stale = {name for name, task in tasks.items() if before.get(name) != scoring_options(task)}
    kept = [row for row in scores if row.task not in stale]
    return kept, len(kept) < len(scores)


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

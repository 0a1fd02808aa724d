"""What is refused before anything is decoded, so that nothing is lost and nothing is mixed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from mtad.api.pair import ModelPair
from mtad.bench.files import ITEMS, read_json, write_json
from mtad.bench.jobs import Job
from mtad.bench.plan import Recipe
from mtad.bench.sample import Key, Sample
from mtad.bench.split import DEV, TEST, split
from mtad.errors import DataError
from mtad.methods import describe
from mtad.model.lm import context_of
from mtad.model.tokenizer import encode
from mtad.tasks import Item, Task

Items: TypeAlias = Mapping[str, Mapping[str, Sequence[Item]]]
"""The items of each task, by stage and task."""


def read_items(recipe: Recipe) -> dict[str, dict[str, list[Item]]]:
    """The dev and test items of every task.

    Raises:
        DataError: a data set is missing, damaged, or has an id twice.
    """
    parts = {
        name: split(_unique(plan.task), plan.num_dev, plan.num_test)
        for name, plan in recipe.tasks.items()
    }
    return {stage: {name: part[stage] for name, part in parts.items()} for stage in (DEV, TEST)}


def _unique(task: Task) -> list[Item]:
    items = task.prompts()
    ids = [item.id for item in items]
    if len(set(ids)) < len(ids):
        twice = next(one for one in ids if ids.count(one) > 1)
        raise DataError(f"{task.data} has the id {twice!r} twice; give each item its own")
    return items


def check_scoring(recipe: Recipe) -> None:
    """Refuse a recipe that chooses options by scores where scoring is not possible."""
    for task in sorted({task for run in recipe.runs if run.is_tuned for task in run.tasks}):
        recipe.tasks[task].task.check()


def check_prompts(recipe: Recipe, pair: ModelPair, items: Items) -> None:
    """Refuse items whose turns and answers may not fit the context of a model."""
    models = [m for m in (pair.models.target, pair.models.draft) if m is not None]
    limit = min((c for m in models if (c := context_of(m)) is not None), default=None)
    if limit is None:
        return
    for name, plan in recipe.tasks.items():
        for item in [*items[DEV][name], *items[TEST][name]]:
            before = [""] * (len(item.turns) - 1)
            size = len(encode(pair.tokenizer, plan.task.prompt(item, before)))
            new = plan.max_new_tokens * len(item.turns)
            if size + new > limit:
                raise DataError(
                    f"item {item.id} of {name} has {size} tokens, and with {new} new ones it does "
                    f"not fit the context of {limit}; lower max_new_tokens or take a pair with a "
                    "longer context"
                )


def check_items(recipe: Recipe, folder: Path, items: Items, done: Mapping[Key, Sample]) -> None:
    """Refuse items that changed since their rows were made, or that changed sides of the split.

    Keeps a hash of every item that is asked in items.json.
    """
    known: dict[str, dict[str, str]] = read_json(folder / ITEMS)
    stages = {(task, item): stage for stage, task, item, _, _ in done}
    for stage, by_task in items.items():
        for name, group in by_task.items():
            task, hashes = recipe.tasks[name].task, known.setdefault(name, {})
            for item in group:
                if stages.get((name, item.id), stage) != stage:
                    raise DataError(
                        f"item {item.id} of {name} was on the other side of the split; keep "
                        f"num_dev as it was, or give another --output than {folder}"
                    )
                if hashes.setdefault(item.id, found := _hash(task, item)) != found:
                    raise DataError(
                        f"item {item.id} of {name} is another one than when {folder} was made: the "
                        "data set, its prompt or chat changed; give another --output"
                    )
    write_json(folder / ITEMS, known)


def _hash(task: Task, item: Item) -> str:
    """A short hash of all that the models are asked."""
    asked = [task.prompt(item, []), item.turns[1:], list(task.stops)]
    return hashlib.sha256(json.dumps(asked, ensure_ascii=False).encode()).hexdigest()[:12]


def check_rows(recipe: Recipe, planned: Iterable[Job], done: Mapping[Key, Sample]) -> None:
    """Refuse to mix rows of one label that were made with different options."""
    for job in planned:
        budget = recipe.tasks[job.task].max_new_tokens
        sampling = {**job.run.sampling, "max_new_tokens": budget}
        wanted = (describe(job.point.method), sampling, job.run.models)
        for before in (done[key] for key in job.keys if key in done):
            if (before.method, before.sampling, before.models) != wanted:
                raise DataError(
                    f"the rows of run {job.label!r} were made with other options "
                    f"({before.method['options']}, {before.sampling}); name the run anew or give "
                    "another --output"
                )

"""From a results folder to a report, and to the files that the field's own scripts read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mtad.atomic import write_text
from mtad.bench.files import (
    CHOSEN,
    FRONT,
    RECIPE,
    read_conditions,
    read_json,
    read_samples,
    read_scores,
)
from mtad.bench.plan import Recipe
from mtad.bench.recipe import parse, without_permissions
from mtad.bench.report import Results, TaskInfo
from mtad.bench.sample import Sample, Scored
from mtad.bench.split import TEST
from mtad.errors import DataError
from mtad.tasks import Exported, Item, Score, Task


def read_recipe_of(folder: Path) -> Recipe:
    """The recipe that a folder was made with.

    Raises:
        DataError: the folder has none.
    """
    table: dict[str, Any] = read_json(folder / RECIPE)
    if not table:
        raise DataError(f"{folder} has no {RECIPE}; give a folder that mtad bench run wrote")
    return parse(without_permissions(table))


def read_results(folder: Path, recipe: Recipe | None = None) -> Results:
    """The input of a report, read from a folder whose samples are scored.

    Args:
        folder: where the files are.
        recipe: what they were made with; read from the folder if None.

    Raises:
        DataError: a file is missing or damaged.
    """
    recipe = recipe or read_recipe_of(folder)
    samples, scores = read_samples(folder), read_scores(folder)
    tested = [row for row in scores if row.stage == TEST]
    more = {
        (name, run): values
        for name, plan in recipe.tasks.items()
        for run, values in _further(plan.task, [r for r in tested if r.task == name]).items()
        if values
    }
    return Results(
        samples=samples,
        scores=scores,
        tasks={name: TaskInfo.of(plan.task) for name, plan in recipe.tasks.items()},
        conditions=read_conditions(folder),
        chosen=read_json(folder / CHOSEN),
        front=read_json(folder / FRONT),
        more=more,
        runs=[run.name for run in recipe.runs],
        reference=recipe.reference,
    )


def _further(task: Task, scores: Iterable[Scored]) -> dict[str, dict[str, float]]:
    """`Task.more` of each run, from its scores in the order of their seeds."""
    runs: dict[str, dict[str, list[Score]]] = {}
    for row in sorted(scores, key=lambda row: row.seed):
        items = runs.setdefault(row.run, {})
        items.setdefault(row.item, []).append(Score(row.score, row.detail))
    return {run: task.more(items) for run, items in runs.items()}


def export(recipe: Recipe, results: Results, output: Path) -> list[Path]:
    """Write the test samples in the shapes that the field's own scripts read; the files' paths.

    Raises:
        DataError: a data set is missing, or is another one than the samples were made with.
    """
    scores = {row.key: row for row in results.scores}
    rows: dict[tuple[str, str], list[Sample]] = {}
    for sample in results.samples:
        if sample.stage == TEST:
            rows.setdefault((sample.task, sample.run), []).append(sample)
    items = {n: {i.id: i for i in plan.task.prompts()} for n, plan in recipe.tasks.items()}
    files: dict[str, str] = {}
    for (task, run), samples in rows.items():
        if missing := {sample.item for sample in samples} - set(items.get(task, {})):
            raise DataError(
                f"the data set of {task} has no item {min(missing)!r}; the samples were made with "
                "another one"
            )
        files |= recipe.tasks[task].task.export(run, _exported(items[task], samples, scores))
    for name, text in files.items():
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        write_text(output / name, text)
    return [output / name for name in files]


def _exported(
    items: Mapping[str, Item], samples: Iterable[Sample], scores: Mapping[Any, Scored]
) -> dict[str, list[Exported]]:
    found: dict[str, list[Exported]] = {}
    for sample in sorted(samples, key=lambda s: (s.item, s.seed)):
        scored = scores.get(sample.key)
        score = Score(scored.score, scored.detail) if scored else None
        found.setdefault(sample.item, []).append(
            Exported(items[sample.item], sample.answers, score, sample.seed, sample.stats)
        )
    return found

"""The best point of each tuned run's grid, by the dev items alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mtad.bench.plan import Point, Recipe, Run
from mtad.bench.sample import Key, Sample, Scored
from mtad.errors import DataError
from mtad.methods import describe


def choose(
    recipe: Recipe, samples: Sequence[Sample], scores: Mapping[Key, Scored]
) -> dict[str, dict[str, dict[str, Any]]]:
    """What to report for each tuned run and task, for chosen.json, with the values of every point.

    "quality" takes the best mean score, the fastest where several share it. "speed" takes the most
    tokens per second of decoding. Where a task has no scores, quality is the likelihood of the
    output.

    Args:
        recipe: the runs and their grids.
        samples: the rows of the dev stage.
        scores: what they are worth.
    """
    rows: dict[tuple[str, str], list[Sample]] = {}
    for sample in samples:
        rows.setdefault((sample.run, sample.task), []).append(sample)
    return {
        run.name: {task: _best(run, task, rows, scores) for task in run.tasks}
        for run in recipe.runs
        if run.is_tuned
    }


def chosen_points(recipe: Recipe, chosen: Mapping[str, Any]) -> dict[str, dict[str, Point]]:
    """The points that chosen.json names.

    Raises:
        DataError: one of them is not in the recipe any more.
    """
    return {
        run.name: {task: _point(run, chosen[run.name][task]["run"]) for task in run.tasks}
        for run in recipe.runs
        if run.is_tuned
    }


def _point(run: Run, label: str) -> Point:
    for point in run.points:
        if point.label == label:
            return point
    raise DataError(
        f"chosen.json names {label!r}, which is not in the recipe's grid; delete chosen.json to "
        "choose again"
    )


def _best(
    run: Run,
    task: str,
    rows: Mapping[tuple[str, str], Sequence[Sample]],
    scores: Mapping[Key, Scored],
) -> dict[str, Any]:
    values = {p.label: _values(rows.get((p.label, task), []), scores) for p in run.points}
    order = ("quality", "tokens_per_second") if run.choose == "quality" else ("tokens_per_second",)
    missing = [label for label, found in values.items() if found[order[0]] is None]
    if missing:
        raise DataError(
            f"{missing[0]} has no {order[0]} for {task}: no row has a score or a likelihood; see "
            "the problems in scores.jsonl, set perplexity = true, or choose by speed"
        )
    best = max(run.points, key=lambda p: tuple(values[p.label][name] or 0.0 for name in order))
    return {
        "run": best.label,
        "options": describe(best.method)["options"],
        "rule": run.choose,
        "num_points": len(run.points),
        "points": values,
    }


def _values(rows: Sequence[Sample], scores: Mapping[Key, Scored]) -> dict[str, Any]:
    """Mean score (or −nll per token) and tokens per second of the timed rows."""
    quality = _mean_score(scores[row.key] for row in rows if row.key in scores)
    timed = [row for row in rows if row.is_timed]
    seconds = sum(row.decode_s for row in timed)
    return {
        "quality": _likelihood(rows) if quality is None else quality,
        "tokens_per_second": sum(r.num_output_tokens for r in timed) / seconds if seconds else None,
        "num_rows": len(rows),
    }


def _mean_score(scores: Iterable[Scored]) -> float | None:
    """The mean in which every rating weighs the same, None where nothing has a score."""
    judged = [(s.score, s.num_ratings) for s in scores if s.score is not None]
    num_ratings = sum(num for _, num in judged)
    return sum(score * num for score, num in judged) / num_ratings if judged else None


def _likelihood(rows: Sequence[Sample]) -> float | None:
    known = [row for row in rows if row.nll is not None]
    tokens = sum(row.num_output_tokens for row in known)
    return -sum(row.nll or 0.0 for row in known) / tokens if tokens else None

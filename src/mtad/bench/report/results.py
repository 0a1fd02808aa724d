"""The input of a report: rows, scores and their conditions, as read from a results folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from mtad.bench.sample import Sample, Scored, by_key
from mtad.errors import DataError
from mtad.tasks import Task


@dataclass(frozen=True)
class TaskInfo:
    """What a report needs to know about a task.

    Attributes:
        metric: what the mean of the scores is called.
        scale: the worst and the best score; None for a task that gives no scores.
    """

    metric: str
    scale: tuple[float, float] | None = (0.0, 1.0)

    @classmethod
    def of(cls, task: Task | type[Task]) -> TaskInfo:
        """Metric and scale of a task; one whose metric is "no score" gives no scores."""
        return cls(task.metric, None if task.metric == "no score" else task.scale)

    @property
    def is_percent(self) -> bool:
        """Whether scores are shares, shown in per cent."""
        return self.scale == (0.0, 1.0)

    @property
    def unit(self) -> str:
        """The unit shown behind a score."""
        return "%" if self.is_percent or self.scale is None else "{:g} to {:g}".format(*self.scale)


@dataclass(frozen=True)
class Row:
    """A sample of the test stage with its score, if it has one."""

    sample: Sample
    scored: Scored | None


@dataclass(frozen=True)
class Results:
    """A results folder in memory.

    Attributes:
        samples: all rows of samples.jsonl.
        scores: all rows of scores.jsonl.
        tasks: what the tasks are called and how they are scored, in the order of the columns.
        conditions: the lines of conditions.jsonl by id.
        chosen: by run and task, what the dev stage chose: `run`, `options`, `rule`, `num_points`.
        front: what `mtad bench front` measured; empty if it did not.
        more: further metrics by (task, run), from `Task.more`.
        runs: labels in the order of the rows; runs that are not named follow as they come.
        reference: the run that others are compared with; see `reference_run`.
    """

    samples: Sequence[Sample]
    scores: Sequence[Scored]
    tasks: Mapping[str, TaskInfo]
    conditions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    chosen: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    front: Mapping[str, Any] = field(default_factory=dict)
    more: Mapping[tuple[str, str], Mapping[str, float]] = field(default_factory=dict)
    runs: Sequence[str] = ()
    reference: str | None = None

    @cached_property
    def rows(self) -> list[Row]:
        """The test stage.

        Raises:
            DataError: it is empty, a row occurs twice, or a task is unknown.
        """
        samples, scored = by_key(self.samples, "samples"), by_key(self.scores, "scores")
        rows = [
            Row(sample, scored.get(key))
            for key, sample in samples.items()
            if sample.stage == "test"
        ]
        if not rows:
            raise DataError(
                f"none of the {len(self.samples)} samples is of the stage 'test'; "
                "finish `mtad bench run` before the report"
            )
        if unknown := {row.sample.task for row in rows} - set(self.tasks):
            raise DataError(
                f"samples of the tasks {', '.join(sorted(unknown))}, which are not in the recipe; "
                f"known: {', '.join(self.tasks) or 'none'}"
            )
        return rows

    @cached_property
    def num_stray_scores(self) -> int:
        """Scores whose sample is not there."""
        known = {sample.key for sample in self.samples}
        return sum(scored.key not in known for scored in self.scores)

    @cached_property
    def by_run(self) -> dict[str, list[Row]]:
        """Rows of the test stage by run, in the order of the report."""
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            found.setdefault(row.sample.run, []).append(row)
        order = [*self.runs, *found]
        return {run: found[run] for run in dict.fromkeys(order) if run in found}

    @cached_property
    def items(self) -> dict[str, list[str]]:
        """The items that any run answered, by task; sorted, so the order of rows does not matter.

        Raises:
            DataError: see `rows`.
        """
        found: dict[str, set[str]] = {}
        for row in self.rows:
            found.setdefault(row.sample.task, set()).add(row.sample.item)
        return {task: sorted(found[task]) for task in self.tasks if task in found}

    @cached_property
    def scored_tasks(self) -> list[str]:
        """The tasks whose scores make up the mean quality."""
        return [task for task in self.items if self.tasks[task].scale is not None]

    @cached_property
    def reference_run(self) -> str:
        """The run named by `reference`, or else the first that samples from the target alone.

        Raises:
            ValueError: `reference` is not the label of a run.
        """
        if self.reference is None:
            return self._first("autoregressive") or next(iter(self.by_run))
        if self.reference not in self.by_run:
            raise ValueError(
                f"reference is {self.reference!r}, which has no rows; "
                f"runs with rows: {', '.join(self.by_run)}"
            )
        return self.reference

    @cached_property
    def speed_reference(self) -> str | None:
        """The run of plain speculative sampling, None without one."""
        return self._first("speculative_sampling")

    def _first(self, method: str) -> str | None:
        fitting = [
            (run, first.sampling.get("temperature", 1.0) == 0)
            for run, rows in self.by_run.items()
            if (first := rows[0].sample).method["name"] == method and first.models == "pair"
        ]
        # a run that samples stands before a greedy one
        return min(fitting, key=lambda entry: entry[1])[0] if fitting else None

    def problems(self, run: str) -> Counter[str]:
        """Why samples of the run have no score, with how many."""
        tasks = set(self.scored_tasks)
        return Counter(
            _problem(row.scored)
            for row in self.by_run[run]
            if row.sample.task in tasks and (row.scored is None or row.scored.score is None)
        )


def _problem(scored: Scored | None) -> str:
    if scored is None:
        return "not scored yet"
    return str(scored.detail.get("problem", "could not be judged"))

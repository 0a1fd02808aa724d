"""Every metric and every comparison of a report, from sums over items.

For each run there is a numerator, a denominator and whether it takes part, by item and metric. All
values come from these arrays and one matrix of resamples that all runs share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import numpy.typing as npt

from mtad.bench.report.metrics import MEAN_QUALITY, METRICS, QUALITY, Metric
from mtad.bench.report.results import Results, Row
from mtad.bench.statistics import (
    Comparison,
    Estimate,
    Floats,
    Resampled,
    farthest_from_end,
    judge,
    mean_of,
    ratio,
    resamples,
    sums,
)

_INDEX = {metric.name: index for index, metric in enumerate(METRICS)}
_IS_ITEM_MEAN = np.array([[metric.is_item_mean] for metric in METRICS])


@dataclass(frozen=True, eq=False)
class _Sums:
    """Of one run and task.

    Attributes:
        parts: (2, metrics, items), numerators and denominators.
        is_in: (metrics, items), whether the item takes part in the metric.
        sums: (2, metrics, 1 + resamples), of all items and of each resample.
    """

    parts: Floats
    is_in: npt.NDArray[np.bool_]
    sums: Floats


class Summary:
    """The metrics of `results`.

    Args:
        results: the rows.
        seed: of the resamples.

    Raises:
        DataError: see `Results.rows`.
    """

    def __init__(self, results: Results, seed: int = 0) -> None:
        self.results = results
        self.runs = list(results.by_run)
        self.tasks = list(results.items)
        sizes = [len(results.items[task]) for task in self.tasks]
        weights = np.split(resamples(sizes, seed), np.cumsum(sizes)[:-1], axis=1)
        self._weights = dict(zip(self.tasks, weights, strict=True))
        self._sums = {
            (run, task): _sums([r for r in rows if r.sample.task == task], items, weight)
            for run, rows in results.by_run.items()
            for (task, items), weight in zip(results.items.items(), weights, strict=True)
        }

    def estimate(self, run: str, metric: Metric, task: str | None = None) -> Estimate:
        """A metric of one task, or of all tasks' sums together.

        Scores of different scales have no sum: over all tasks there is `MEAN_QUALITY`.
        """
        found = self.resampled(run, metric, task).estimate()
        # scores all at one end do not vary between resamples: their exact bound is added in full
        if metric is MEAN_QUALITY:
            scored = self.results.scored_tasks
            reaches = [_reach(self._points(run, t).estimate(), (0.0, 100.0)) for t in scored]
        elif metric is QUALITY and task and (scale := self.results.tasks[task].scale):
            reaches = [_reach(found, scale)]
        else:
            return found
        if found.low is None or found.high is None:
            return found
        below, above = (sum(side) / len(reaches) for side in zip(*reaches, strict=True))
        return replace(found, low=found.low - below, high=found.high + above)

    def mean_quality(self, run: str) -> Estimate:
        """The mean over tasks of the scores, each mapped to 0 to 100 by its task's scale."""
        return self.estimate(run, MEAN_QUALITY)

    def compare(
        self, run: str, reference: str, metric: Metric, task: str | None = None
    ) -> Comparison:
        """The difference or ratio of two runs on the items that both have."""
        one = self.resampled(run, metric, task, reference)
        other = self.resampled(reference, metric, task, run)
        if metric.compare == "ratio":
            return judge(one.over(other), 1, metric.better)
        return judge(one.minus(other), 0, metric.better)

    def is_measured(self, run: str, metric: Metric, task: str | None = None) -> bool:
        """Whether any row of the run has what the metric needs."""
        return self._num_measured(run, metric, task) > 0

    def most_items(self, metric: Metric, task: str | None = None) -> int:
        """Items that take part in the metric, of the run that has most of them."""
        if metric is MEAN_QUALITY:
            return sum(self.most_items(QUALITY, task) for task in self.results.scored_tasks)
        return max(self._num_measured(run, metric, task) for run in self.runs)

    def _num_measured(self, run: str, metric: Metric, task: str | None) -> int:
        tasks = [task] if task else self.tasks
        return sum(int(self._sums[run, t].is_in[_INDEX[metric.name]].sum()) for t in tasks)

    def num_items(self, run: str, task: str) -> int:
        """Items of the task that the run has answers to."""
        return len({r.sample.item for r in self.results.by_run[run] if r.sample.task == task})

    def resampled(
        self, run: str, metric: Metric, task: str | None = None, common_with: str | None = None
    ) -> Resampled:
        """The metric over all items, or over those that another run has as well."""
        if metric is MEAN_QUALITY:
            return mean_of([self._points(run, t, common_with) for t in self.results.scored_tasks])
        tasks = [task] if task else self.tasks
        parts, counts = zip(
            *(self._sums_of(run, metric, t, common_with) for t in tasks), strict=True
        )
        num, den = np.sum(parts, axis=0)
        found = ratio(num, den, sum(counts))
        return found.map(np.exp) if metric.is_log else found

    def _points(self, run: str, task: str, common_with: str | None = None) -> Resampled:
        """The quality of a task, mapped to 0 to 100 by its scale."""
        worst, best = self.results.tasks[task].scale or (0.0, 1.0)
        quality = self.resampled(run, QUALITY, task, common_with)
        return quality.map(lambda score: 100 * (score - worst) / (best - worst))

    def _sums_of(
        self, run: str, metric: Metric, task: str, common_with: str | None
    ) -> tuple[Floats, int]:
        """Numerators and denominators, (2, 1 + resamples), and how many items there are."""
        found, index = self._sums[run, task], _INDEX[metric.name]
        is_in = found.is_in[index]
        both = is_in & self._sums[common_with or run, task].is_in[index]
        if (both == is_in).all():
            return found.sums[:, index], int(is_in.sum())
        return sums(found.parts[:, index] * both, self._weights[task]), int(both.sum())


def _sums(rows: Sequence[Row], items: Sequence[str], weights: Floats) -> _Sums:
    """The sums of a run's rows of one task."""
    place = {item: at for at, item in enumerate(items)}
    parts = np.zeros((2, len(METRICS), len(items)))
    num_rows = np.zeros(parts.shape[1:])
    never_drafts = not any(row.sample.total_stats.num_draft_tokens for row in rows)
    for row, (index, metric) in product(rows, enumerate(METRICS)):
        part = None if metric.needs_drafts and never_drafts else metric.parts(row)
        if part is not None:
            at = place[row.sample.item]
            parts[:, index, at] += part
            num_rows[index, at] += 1
    parts /= np.where(_IS_ITEM_MEAN, np.maximum(num_rows, 1), 1.0)
    return _Sums(parts, num_rows > 0, sums(parts, weights))


def _reach(estimate: Estimate, scale: tuple[float, float]) -> tuple[float, float]:
    """How far below and above the exact bound reaches where all scores are at one end."""
    if estimate.value not in scale or estimate.num_items < 2:
        return 0.0, 0.0
    reach = (scale[1] - scale[0]) * farthest_from_end(estimate.num_items)
    return (0.0, reach) if estimate.value == scale[0] else (reach, 0.0)

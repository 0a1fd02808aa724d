"""Every metric and every comparison of a report, from sums over items.

For each run there is a numerator, a denominator and whether it takes part, by item and metric. All
values come from these arrays and one matrix of resamples that all runs share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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
)

_COLUMNS = {metric.name: column for column, metric in enumerate(METRICS)}


@dataclass(frozen=True, eq=False)
class _Sums:
    """Of one run and task.

    Attributes:
        num, den: (items, metrics).
        is_in: (items, metrics), whether the item takes part in the metric.
        num_draws, den_draws: (resamples, metrics), of all items that take part.
    """

    num: Floats
    den: Floats
    is_in: npt.NDArray[np.bool_]
    num_draws: Floats
    den_draws: Floats


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
        ends = np.cumsum(sizes)
        weights = resamples(sizes, seed)
        self._weights = {
            task: weights[:, end - size : end]
            for task, size, end in zip(self.tasks, sizes, ends, strict=True)
        }
        self._sums = {
            (run, task): _sums([r for r in rows if r.sample.task == task], items, weight)
            for run, rows in results.by_run.items()
            for task, items in results.items.items()
            for weight in [self._weights[task]]
        }

    def estimate(self, run: str, metric: Metric, task: str | None = None) -> Estimate:
        """A metric of one task, or of all tasks' sums together.

        Scores of different scales have no sum: over all tasks there is `MEAN_QUALITY`.
        """
        if metric is MEAN_QUALITY:
            return self.mean_quality(run)
        estimate = self.resampled(run, metric, task).estimate()
        scale = self.results.tasks[task].scale if task and metric is QUALITY else None
        return _widened(estimate, *_reach(estimate, scale)) if scale else estimate

    def resampled(self, run: str, metric: Metric, task: str | None = None) -> Resampled:
        """The value behind `estimate`, for differences and means."""
        return self._resampled(run, metric, [task] if task else self.tasks, None)

    def mean_quality(self, run: str) -> Estimate:
        """The mean over tasks of the scores, each mapped to 0 to 100 by its task's scale."""
        qualities = [self._quality(run, task, None) for task in self.results.scored_tasks]
        if not qualities:
            return Estimate(None)
        # scores all at one end do not vary between resamples: their exact bound is added in full
        ends = [_reach(quality.estimate(), (0.0, 100.0)) for quality in qualities]
        below, above = (sum(side) / len(qualities) for side in zip(*ends, strict=True))
        return _widened(mean_of(qualities).estimate(), below, above)

    def compare(
        self, run: str, reference: str, metric: Metric, task: str | None = None
    ) -> Comparison:
        """The difference or ratio of two runs on the items that both have."""
        if metric is MEAN_QUALITY:
            return self.compare_mean_quality(run, reference)
        tasks = [task] if task else self.tasks
        one, other = (
            self._resampled(first, metric, tasks, second)
            for first, second in ((run, reference), (reference, run))
        )
        if metric.compare == "ratio":
            return judge(one.over(other), 1, metric.better)
        return judge(one.minus(other), 0, metric.better)

    def compare_mean_quality(self, run: str, reference: str) -> Comparison:
        """The difference of the mean qualities on the items that both runs have."""
        differences = [
            self._quality(run, task, reference).minus(self._quality(reference, task, run))
            for task in self.results.scored_tasks
        ]
        if not differences:
            return Comparison(Estimate(None), "–")
        return judge(mean_of(differences), 0, "higher")

    def is_measured(self, run: str, metric: Metric, task: str | None = None) -> bool:
        """Whether any row of the run has what the metric needs."""
        return self._num_measured(run, metric, task) > 0

    def most_items(self, metric: Metric, task: str | None = None) -> int:
        """Items that take part in the metric, of the run that has most of them."""
        if metric is MEAN_QUALITY:
            return sum(self.most_items(QUALITY, task) for task in self.results.scored_tasks)
        return max(self._num_measured(run, metric, task) for run in self.runs)

    def _num_measured(self, run: str, metric: Metric, task: str | None) -> int:
        column = _COLUMNS[metric.name]
        tasks = [task] if task else self.tasks
        return sum(int(self._sums[run, t].is_in[:, column].sum()) for t in tasks)

    def num_items(self, run: str, task: str) -> int:
        """Items of the task that the run has answers to."""
        return len({r.sample.item for r in self.results.by_run[run] if r.sample.task == task})

    def _quality(self, run: str, task: str, common_with: str | None) -> Resampled:
        worst, best = self.results.tasks[task].scale or (0.0, 1.0)
        quality = self._resampled(run, QUALITY, [task], common_with)
        return quality.map(lambda score: 100 * (score - worst) / (best - worst))

    def _resampled(
        self, run: str, metric: Metric, tasks: Sequence[str], common_with: str | None
    ) -> Resampled:
        """The metric over the tasks' items, or over those that another run has as well."""
        parts = [self._part(run, metric, task, common_with) for task in tasks]
        num, den, num_draws, den_draws, num_items = (
            np.sum(part, axis=0) for part in zip(*parts, strict=True)
        )
        return metric.finish(ratio(float(num), float(den), num_draws, den_draws, int(num_items)))

    def _part(
        self, run: str, metric: Metric, task: str, common_with: str | None
    ) -> tuple[float, float, Floats, Floats, int]:
        """Sums over items, over resampled items, and how many items there are."""
        sums, column = self._sums[run, task], _COLUMNS[metric.name]
        num, den, is_in = sums.num[:, column], sums.den[:, column], sums.is_in[:, column]
        other = self._sums[common_with or run, task].is_in[:, column]
        if (is_in <= other).all():
            draws = sums.num_draws[:, column], sums.den_draws[:, column]
            return num.sum(), den.sum(), *draws, int(is_in.sum())
        both = is_in & other
        num, den = num * both, den * both
        weights = self._weights[task]
        return num.sum(), den.sum(), weights @ num, weights @ den, int(both.sum())


def _sums(rows: Sequence[Row], items: Sequence[str], weights: Floats) -> _Sums:
    """The sums of a run's rows of one task."""
    place = {item: index for index, item in enumerate(items)}
    num, den = np.zeros((2, len(items), len(METRICS)))
    is_in = np.zeros((len(items), len(METRICS)), dtype=np.bool_)
    never_drafts = not any(row.sample.total_stats.num_draft_tokens for row in rows)
    for row in rows:
        at = place[row.sample.item]
        for column, metric in enumerate(METRICS):
            parts = None if metric.needs_drafts and never_drafts else metric.parts(row)
            if parts is not None:
                num[at, column] += parts[0]
                den[at, column] += parts[1]
                is_in[at, column] = True
    for column, metric in enumerate(METRICS):
        if metric.is_item_mean:
            is_there = is_in[:, column]
            num[is_there, column] /= den[is_there, column]
            den[is_there, column] = 1
    return _Sums(num, den, is_in, weights @ num, weights @ den)


def _reach(estimate: Estimate, scale: tuple[float, float]) -> tuple[float, float]:
    """How far below and above the exact bound reaches where all scores are at one end."""
    if estimate.value not in scale or estimate.num_items < 2:
        return 0.0, 0.0
    reach = (scale[1] - scale[0]) * farthest_from_end(estimate.num_items)
    return (0.0, reach) if estimate.value == scale[0] else (reach, 0.0)


def _widened(estimate: Estimate, below: float, above: float) -> Estimate:
    if estimate.low is None or estimate.high is None:
        return estimate
    return replace(estimate, low=estimate.low - below, high=estimate.high + above)

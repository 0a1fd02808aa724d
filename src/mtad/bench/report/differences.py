"""Every run against a reference, on the same items: better, worse, or no difference shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mtad.bench.report.metrics import (
    END_TO_END_SPEED,
    ENERGY,
    MEAN_QUALITY,
    PERPLEXITY,
    QUALITY,
    SPEED,
    Metric,
)
from mtad.bench.report.results import TaskInfo
from mtad.bench.report.summary import Summary
from mtad.bench.report.table import UNAVAILABLE, Table, all_digits, change, scaled
from mtad.bench.statistics import Comparison, holm

_COSTS = (SPEED, END_TO_END_SPEED, ENERGY, PERPLEXITY)
_MARK = " †"
_CSV = "run reference task metric kind value low high unit n verdict p_value".split()


@dataclass(frozen=True)
class Column:
    """A metric by which runs are compared: of one task, or of all together if it is None."""

    summary: Summary
    metric: Metric
    task: str | None = None

    @property
    def is_ratio(self) -> bool:
        """Whether runs are divided rather than subtracted."""
        return self.metric.compare == "ratio"

    @property
    def unit(self) -> str:
        """Of a difference; "" for ratios."""
        unit = scaled(self.metric, self._info)[1]
        named = {"%": "points", "0 to 100": "points of 100"}
        return "" if self.is_ratio else named.get(unit, f"points on {unit}")

    @property
    def title(self) -> str:
        """Of the column."""
        name = self._info.metric if self._info and self.metric is QUALITY else self.metric.title
        parts = self.task, name, "ratio" if self.is_ratio else self.unit
        return ", ".join(part for part in parts if part)

    @property
    def _info(self) -> TaskInfo | None:
        return self.summary.results.tasks[self.task] if self.task else None

    @property
    def _factor(self) -> float:
        return 1.0 if self.is_ratio else scaled(self.metric, self._info)[0]

    def compare(self, run: str, reference: str) -> Comparison:
        """A run against a reference."""
        return self.summary.compare(run, reference, self.metric, self.task)

    def is_known(self, *runs: str) -> bool:
        """Whether all of the runs have the metric measured."""
        found = (self.summary.is_measured(run, self.metric, self.task) for run in runs)
        return not self.metric.needs_meter or all(found)

    def cells(self, runs: Sequence[str], reference: str) -> list[str]:
        """The column of a table."""
        comparisons = [self.compare(run, reference) for run in runs]
        survives = holm([comparison.p_value for comparison in comparisons])
        return [
            self._cell(comparison, holds) if self.is_known(run, reference) else UNAVAILABLE
            for run, comparison, holds in zip(runs, comparisons, survives, strict=True)
        ]

    def _cell(self, comparison: Comparison, holds: bool) -> str:
        digits = scaled(self.metric, self._info)[2]
        return change(
            comparison,
            max(2, digits) if self.is_ratio else digits,
            self._factor,
            sign="" if self.is_ratio else "+",
            mark=_MARK if holds and comparison.verdict in ("better", "worse") else "",
            num_all=self.summary.most_items(self.metric, self.task),
        )

    def csv_row(self, run: str, reference: str) -> list[str]:
        """A comparison with all of its digits."""
        comparison = self.compare(run, reference)
        estimate, task = comparison.estimate, self.task or "all"
        kind = "ratio" if self.is_ratio else "difference"
        ends = all_digits(estimate, self._factor, self.is_known(run, reference))
        p_value = "" if comparison.p_value is None else f"{comparison.p_value:.6g}"
        head = [run, reference, task, self.metric.name, kind]
        return [*head, *ends, self.unit, str(estimate.num_items), comparison.verdict, p_value]


def quality_columns(summary: Summary) -> list[Column]:
    """The score of each task, and the mean of all."""
    tasks = summary.results.scored_tasks
    mean = [Column(summary, MEAN_QUALITY)] if len(tasks) > 1 else []
    return [*(Column(summary, QUALITY, task) for task in tasks), *mean]


def cost_columns(summary: Summary) -> list[Column]:
    """Speed, energy and perplexity of all tasks together, and the speed of each."""
    tasks = summary.tasks if len(summary.tasks) > 1 else []
    together = [Column(summary, metric) for metric in _COSTS]
    return [*together, *(Column(summary, SPEED, task) for task in tasks)]


def difference_tables(summary: Summary) -> list[Table]:
    """Quality and cost against the reference, and cost against speculative sampling."""
    quality, costs = quality_columns(summary), cost_columns(summary)
    reference, *others = _references(summary)
    title = "Speed, energy, perplexity"
    tables = [_table(summary, reference, quality, "Quality", "quality-vs")] if quality else []
    tables += [_table(summary, reference, costs, title, "cost-vs")]
    tables += [_table(summary, run, costs, title, "cost-vs-speculative") for run in others]
    return tables


def differences_csv(summary: Summary) -> Table:
    """One row per run, reference, task and metric."""
    quality, costs = quality_columns(summary), cost_columns(summary)
    rows = [
        column.csv_row(run, reference)
        for reference, columns in zip(_references(summary), ([*quality, *costs], costs))  # noqa: B905
        for column in columns
        for run in summary.runs
        if run != reference
    ]
    return Table("Differences", _CSV, rows)


def _references(summary: Summary) -> list[str]:
    """The run that all are compared with, and plain speculative sampling if it is another."""
    found = summary.results.reference_run, summary.results.speed_reference
    return list(dict.fromkeys(run for run in found if run is not None))


def _table(
    summary: Summary, reference: str, columns: Sequence[Column], title: str, slug: str
) -> Table:
    others = [run for run in summary.runs if run != reference]
    cells = [column.cells(others, reference) for column in columns]
    rows = [[run, *row] for run, *row in zip(others, *cells, strict=True)]
    note = (
        f"Paired: each value compares a run with {reference} on the items that both have. "
        f'"Better" and "worse" mean that the whole 95 % interval is on that side; '
        f'"no difference shown" is not "no difference". Of runs that do not differ, one in twenty '
        f"is called better or worse by chance; verdicts with{_MARK} hold even if all of their "
        f"column count together (Holm)."
    )
    headers = ["run", *(column.title for column in columns)]
    return Table(f"{title}, against {reference}", headers, rows, note, slug=slug)

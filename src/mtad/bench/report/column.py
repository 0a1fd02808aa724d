"""A metric as tables show it: its unit and decimals, runs one by one, and runs compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mtad.bench.report.metrics import QUALITY, Metric
from mtad.bench.report.results import TaskInfo
from mtad.bench.report.summary import Summary
from mtad.bench.report.table import NONE, UNAVAILABLE, all_digits, formatted
from mtad.bench.statistics import Comparison, Estimate, holm

MARK = " †"
"""Stands behind verdicts that hold even if all of their column count together."""


@dataclass(frozen=True)
class Column:
    """A metric of one task, or of all together if it is None."""

    summary: Summary
    metric: Metric
    task: str | None = None

    @property
    def _scored(self) -> TaskInfo | None:
        """The task whose scores these are, None for all other metrics."""
        is_score = self.metric is QUALITY and self.task is not None
        return self.summary.results.tasks[self.task or ""] if is_score else None

    @property
    def scale(self) -> tuple[float, str, int]:
        """By what values are multiplied to be shown, their unit then, and the decimals."""
        if self._scored is None:
            return 1.0, self.metric.unit, self.metric.digits
        return (100.0, "%", 1) if self._scored.is_percent else (1.0, self._scored.unit, 2)

    def title(self, unit: str = "") -> str:
        """The header, with the unit behind it; the unit of the values if it is not given."""
        name = self._scored.metric if self._scored else self.metric.title
        return ", ".join(part for part in (self.task, name, unit or self.scale[1]) if part)

    def is_known(self, *runs: str) -> bool:
        """Whether the metric needs no meter, or all of the runs have one."""
        measured = (self.summary.is_measured(run, self.metric, self.task) for run in runs)
        return not self.metric.needs_meter or all(measured)

    def cell(self, run: str) -> str:
        """The value with its interval; "unavailable" without a meter, else a dash if unknown."""
        if not self.is_known(run):
            return UNAVAILABLE
        factor, _, digits = self.scale
        return formatted(self.summary.estimate(run, self.metric, self.task), digits, factor)

    def csv_row(self, run: str) -> list[str]:
        """The value with all of its digits."""
        factor, unit, _ = self.scale
        estimate = self.summary.estimate(run, self.metric, self.task)
        ends = _ends(estimate, factor, self.is_known(run))
        return [run, self.task or "all", self.metric.name, *ends, unit, str(estimate.num_items)]

    @property
    def is_ratio(self) -> bool:
        """Whether runs are divided rather than subtracted."""
        return self.metric.compare == "ratio"

    @property
    def unit(self) -> str:
        """Of a difference; "" for ratios."""
        unit = self.scale[1]
        named = {"%": "points", "0 to 100": "points of 100"}
        return "" if self.is_ratio else named.get(unit, f"points on {unit}")

    def compare(self, run: str, reference: str) -> Comparison:
        """A run against a reference."""
        return self.summary.compare(run, reference, self.metric, self.task)

    def compared_cells(self, runs: Sequence[str], reference: str) -> list[str]:
        """The differences or ratios of all runs, with their verdicts."""
        comparisons = [self.compare(run, reference) for run in runs]
        survives = holm([comparison.p_value for comparison in comparisons])
        return [
            self.compared(comparison, holds) if self.is_known(run, reference) else UNAVAILABLE
            for run, comparison, holds in zip(runs, comparisons, survives, strict=True)
        ]

    def compared(self, found: Comparison, holds: bool = False) -> str:
        """A difference or ratio, its verdict, and the number of items if it is not all."""
        estimate, (factor, _, digits) = found.estimate, self.scale
        if estimate.value is None:
            return NONE
        if self.is_ratio:
            text = formatted(estimate, max(2, digits))
        else:
            text = formatted(estimate, digits, factor, "+")
        if found.verdict != NONE:
            is_marked = holds and found.verdict in ("better", "worse")
            text += f" {found.verdict}{MARK if is_marked else ''}"
        num_all, num_items = self.summary.most_items(self.metric, self.task), estimate.num_items
        return text if num_items >= num_all else f"{text} (on {num_items} of {num_all} items)"

    def compared_csv_row(self, run: str, reference: str) -> list[str]:
        """A comparison with all of its digits."""
        found = self.compare(run, reference)
        factor = 1.0 if self.is_ratio else self.scale[0]
        kind = "ratio" if self.is_ratio else "difference"
        return [
            *(run, reference, self.task or "all", self.metric.name, kind),
            *_ends(found.estimate, factor, self.is_known(run, reference)),
            *(self.unit, str(found.estimate.num_items), found.verdict),
            *all_digits(found.p_value),
        ]


def _ends(estimate: Estimate, factor: float, is_known: bool) -> list[str]:
    """The value and the ends of its interval."""
    if not is_known or estimate.value is None:
        return [NONE if is_known else UNAVAILABLE, "", ""]
    ends = (estimate.value, estimate.low, estimate.high)
    return all_digits(*(None if end is None else end * factor for end in ends))

"""The figures and the comparisons as CSV, with all digits."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence

from mtad.bench.report.differences import Question, cost_questions, quality_questions
from mtad.bench.report.metrics import METRICS, QUALITY, Metric
from mtad.bench.report.summary import Summary
from mtad.bench.report.table import NONE, UNAVAILABLE, scaled
from mtad.bench.statistics import Estimate

_FIGURES = ("run", "task", "metric", "value", "low", "high", "unit", "n")
_COMPARISONS = (
    "run",
    "reference",
    "task",
    "metric",
    "kind",
    "value",
    "low",
    "high",
    "unit",
    "n",
    "verdict",
    "p_value",
)


def figures_csv(summary: Summary) -> str:
    """One row per run, task and metric; the task "all" is all tasks together."""
    return _csv(_FIGURES, _figure_rows(summary))


def comparisons_csv(summary: Summary) -> str:
    """One row per run, reference, task and metric."""
    return _csv(_COMPARISONS, _comparison_rows(summary))


def _figure_rows(summary: Summary) -> Iterator[list[str]]:
    for run in summary.runs:
        for task in [*summary.tasks, None]:
            for metric in METRICS:
                if _is_meaningful(summary, metric, task):
                    yield _figure_row(summary, run, metric, task)
        mean = summary.mean_quality(run)
        yield [run, "all", "mean_quality", *_ends(mean, 1.0), "0 to 100", str(mean.num_items)]


def _is_meaningful(summary: Summary, metric: Metric, task: str | None) -> bool:
    if task is None:
        return metric is not QUALITY
    return metric is not QUALITY or summary.results.tasks[task].scale is not None


def _figure_row(summary: Summary, run: str, metric: Metric, task: str | None) -> list[str]:
    factor, unit, _ = scaled(metric, summary.results.tasks[task] if task else None)
    estimate = summary.estimate(run, metric, task)
    ends = _ends(estimate, factor)
    if metric.needs_meter and not summary.is_measured(run, metric, task):
        ends = [UNAVAILABLE, "", ""]
    return [run, task or "all", metric.name, *ends, unit, str(estimate.num_items)]


def _comparison_rows(summary: Summary) -> Iterator[list[str]]:
    reference, other = summary.results.reference_run, summary.results.speed_reference
    yield from _against(summary, reference, [*quality_questions(summary), *cost_questions(summary)])
    if other is not None and other != reference:
        yield from _against(summary, other, cost_questions(summary))


def _against(
    summary: Summary, reference: str, questions: Sequence[Question]
) -> Iterator[list[str]]:
    for question in questions:
        for run in summary.runs:
            if run != reference:
                yield _comparison_row(run, reference, question)


def _comparison_row(run: str, reference: str, question: Question) -> list[str]:
    comparison = question.compare(run, reference)
    ends = _ends(comparison.estimate, question.factor)
    if not (question.is_known(run) and question.is_known(reference)):
        ends = [UNAVAILABLE, "", ""]
    return [
        run,
        reference,
        question.task or "all",
        question.name,
        "ratio" if question.is_ratio else "difference",
        *ends,
        question.unit,
        str(comparison.estimate.num_items),
        comparison.verdict,
        _digits(comparison.p_value),
    ]


def _ends(estimate: Estimate, factor: float) -> list[str]:
    if estimate.value is None:
        return [NONE, "", ""]
    ends = (estimate.value, estimate.low, estimate.high)
    return [_digits(None if end is None else end * factor) for end in ends]


def _digits(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _csv(headers: Sequence[str], rows: Iterator[list[str]]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(headers)
    writer.writerows(rows)
    return stream.getvalue()

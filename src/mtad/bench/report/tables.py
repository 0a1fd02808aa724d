"""The tables of metrics: one row per run, the paper's layout, the details, and all digits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mtad.bench.report.metrics import (
    ACCEPTANCE_LENGTH,
    ACCEPTANCE_RATE,
    ACCEPTED_ENERGY,
    CUT_OFF,
    END_TO_END_SPEED,
    ENERGY,
    LENGTH,
    MEAN_QUALITY,
    METRICS,
    PATH_RATE,
    PERPLEXITY,
    QUALITY,
    REPETITION,
    REQUEST_ENERGY,
    REQUEST_SPEED,
    SPEED,
    WALL_SPEED,
    Metric,
)
from mtad.bench.report.summary import Summary
from mtad.bench.report.table import NONE, UNAVAILABLE, Table, all_digits, change, formatted, scaled
from mtad.bench.statistics import Estimate


def cell(summary: Summary, run: str, metric: Metric, task: str | None = None) -> str:
    """A metric with its interval; "unavailable" without a meter, a dash without a denominator."""
    if metric.needs_meter and not summary.is_measured(run, metric, task):
        return UNAVAILABLE
    factor, _, digits = scaled(metric, summary.results.tasks[task] if task else None)
    return formatted(summary.estimate(run, metric, task), digits, factor)


def main_table(summary: Summary) -> Table:
    """One row per run: quality by task, perplexity, acceptance, relative speed, energy."""
    reference = summary.results.reference_run
    tasks = summary.results.scored_tasks
    mean = [MEAN_QUALITY] if len(tasks) > 1 else []
    headers = [
        "run",
        *(quality_header(summary, task) for task in tasks),
        *(f"{m.title}, {m.unit}" for m in mean),
        *(m.title for m in (PERPLEXITY, ACCEPTANCE_LENGTH, ACCEPTANCE_RATE)),
        "tokens/s, relative",
        ENERGY.title,
    ]
    rows = [
        [
            run,
            *(cell(summary, run, QUALITY, task) + _missing(summary, run, task) for task in tasks),
            *(
                cell(summary, run, m)
                for m in (*mean, PERPLEXITY, ACCEPTANCE_LENGTH, ACCEPTANCE_RATE)
            ),
            _relative_speed(summary, run),
            cell(summary, run, ENERGY),
        ]
        for run in summary.runs
    ]
    note = (
        f"Brackets: 95 % intervals over items. Relative tokens/s: decode only, over those of "
        f"{reference} on the same items. Perplexity, acceptance, speed and energy are of all "
        f"tasks together."
    )
    return Table("Overview", headers, rows, note, slug="overview")


def _relative_speed(summary: Summary, run: str) -> str:
    reference = summary.results.reference_run
    comparison = summary.compare(run, reference, SPEED)
    if run == reference:
        return formatted(Estimate(comparison.estimate.value), 2)
    return change(replace(comparison, verdict=NONE), 2, num_all=summary.most_items(SPEED))


def quality_header(summary: Summary, task: str) -> str:
    """The task with its metric and unit."""
    info = summary.results.tasks[task]
    return f"{task}, {info.metric}, {info.unit}"


def _missing(summary: Summary, run: str, task: str) -> str:
    """How many items the score rests on, where that is not all."""
    rests_on, there = (
        summary.estimate(run, QUALITY, task).num_items,
        len(summary.results.items[task]),
    )
    return "" if rests_on == there else f" ({rests_on} of {there} items)"


def paper_table(summary: Summary) -> Table:
    """The layout of the paper: data and metric down, methods across; values without intervals."""
    rows = [
        [task, title, *(_bare(summary, run, metric, task) for run in summary.runs)]
        for task in summary.tasks
        for metric, title in _paper_metrics(summary, task)
    ]
    note = "Decode only. The intervals are in the other tables."
    headers = ["data", "metric", *summary.runs]
    return Table("The paper's layout", headers, rows, note, num_labels=2, slug="paper")


def _paper_metrics(summary: Summary, task: str) -> list[tuple[Metric, str]]:
    info = summary.results.tasks[task]
    quality = [(QUALITY, f"{info.metric}, {info.unit}")] if info.scale else []
    perplexity = [] if info.scale else [(PERPLEXITY, PERPLEXITY.title)]
    return [(SPEED, "tokens/s"), (ENERGY, "J/token"), *quality, *perplexity]


def _bare(summary: Summary, run: str, metric: Metric, task: str) -> str:
    return cell(summary, run, metric, task).partition(" [")[0]


def details_tables(summary: Summary) -> list[Table]:
    """Speed, energy, acceptance and text, of all tasks together and of each one."""
    groups = {
        "Speed": (SPEED, REQUEST_SPEED, END_TO_END_SPEED, WALL_SPEED),
        "Energy": (ENERGY, REQUEST_ENERGY, ACCEPTED_ENERGY),
        "Acceptance": (ACCEPTANCE_LENGTH, ACCEPTANCE_RATE, PATH_RATE),
        "Text": (PERPLEXITY, REPETITION, LENGTH, CUT_OFF),
    }
    return [_details(summary, title, metrics) for title, metrics in groups.items()]


def _details(summary: Summary, title: str, metrics: Sequence[Metric]) -> Table:
    tasks: list[str | None] = [*summary.tasks]
    if len(tasks) > 1:
        tasks.insert(0, None)
    rows = [
        [run, task or "all", *(cell(summary, run, metric, task) for metric in metrics)]
        for run in summary.runs
        for task in tasks
        if task is None or summary.num_items(run, task)
    ]
    headers = ["run", "task", *(metric.title for metric in metrics)]
    return Table(title, headers, rows, num_labels=2, slug=title.lower())


def metrics_csv(summary: Summary) -> Table:
    """One row per run, task and metric; the task "all" is all tasks together."""
    tasks = [*summary.tasks, None]
    known = [(task, m) for task in tasks for m in METRICS if _has(summary, m, task)]
    rows = [
        _csv_row(summary, run, metric, task)
        for run in summary.runs
        for task, metric in [*known, (None, MEAN_QUALITY)]
    ]
    return Table("Metrics", "run task metric value low high unit n".split(), rows)


def _has(summary: Summary, metric: Metric, task: str | None) -> bool:
    """Whether the metric means something there: only tasks with scores have a quality."""
    is_scored = task is not None and summary.results.tasks[task].scale is not None
    return metric is not QUALITY or is_scored


def _csv_row(summary: Summary, run: str, metric: Metric, task: str | None) -> list[str]:
    factor, unit, _ = scaled(metric, summary.results.tasks[task] if task else None)
    is_known = not metric.needs_meter or summary.is_measured(run, metric, task)
    estimate = summary.estimate(run, metric, task)
    ends = all_digits(estimate, factor, is_known)
    return [run, task or "all", metric.name, *ends, unit, str(estimate.num_items)]

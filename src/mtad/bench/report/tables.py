"""The tables of metrics: one row per run, the paper's layout, the details, and all digits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mtad.bench.report.column import Column
from mtad.bench.report.metrics import (
    ACCEPTANCE_LENGTH,
    ACCEPTANCE_RATE,
    ACCEPTED_ENERGY,
    CUT_OFF,
    END_TO_END_SPEED,
    ENERGY,
    LENGTH,
    LOG_LIKELIHOOD,
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
from mtad.bench.report.table import NONE, Table, formatted, table_of
from mtad.bench.statistics import Estimate


def quality_columns(summary: Summary) -> list[Column]:
    """The score of each task, and the mean of all."""
    tasks = summary.results.scored_tasks
    mean = [Column(summary, MEAN_QUALITY)] if len(tasks) > 1 else []
    return [*(Column(summary, QUALITY, task) for task in tasks), *mean]


def main_table(summary: Summary) -> Table:
    """One row per run: quality by task, perplexity, repetition, acceptance, speed, energy."""
    quality, energy = quality_columns(summary), Column(summary, ENERGY)
    metrics = (PERPLEXITY, REPETITION, ACCEPTANCE_LENGTH, ACCEPTANCE_RATE)
    counts = [Column(summary, metric) for metric in metrics]
    rows = [
        {
            "run": run,
            **{column.title(): column.cell(run) + _missing(column, run) for column in quality},
            **{column.metric.title: column.cell(run) for column in counts},
            "tokens/s, relative": _relative_speed(summary, run),
            ENERGY.title: energy.cell(run),
        }
        for run in summary.runs
    ]
    note = (
        f"Brackets: 95 % intervals over items. Relative tokens/s: decode only, over those of "
        f"{summary.results.reference_run} on the same items. Perplexity, repetition, "
        f"acceptance, speed and energy are of all tasks together."
    )
    return table_of("Overview", rows, note, slug="overview")


def _missing(column: Column, run: str) -> str:
    """How many of a task's items the score rests on, where that is not all."""
    if column.task is None:
        return ""
    num_items = column.summary.estimate(run, QUALITY, column.task).num_items
    num_all = len(column.summary.results.items[column.task])
    return "" if num_items == num_all else f" ({num_items} of {num_all} items)"


def _relative_speed(summary: Summary, run: str) -> str:
    reference, speed = summary.results.reference_run, Column(summary, SPEED)
    comparison = speed.compare(run, reference)
    if run == reference:
        return formatted(Estimate(comparison.estimate.value), 2)
    return speed.compared(replace(comparison, verdict=NONE))


def paper_table(summary: Summary) -> Table:
    """The layout of the paper: data and metric down, methods across; values without intervals."""
    rows = [
        {"data": task, "metric": title, **{run: _value(column, run) for run in summary.runs}}
        for task in summary.tasks
        for title, column in _paper_columns(summary, task)
    ]
    note = "Decode only. The intervals are in the other tables."
    return table_of("The paper's layout", rows, note, num_labels=2, slug="paper")


def _value(column: Column, run: str) -> str:
    return column.cell(run).partition(" [")[0]


def _paper_columns(summary: Summary, task: str) -> list[tuple[str, Column]]:
    info = summary.results.tasks[task]
    is_scored = info.scale is not None
    title = f"{info.metric}, {info.unit}" if is_scored else PERPLEXITY.title
    titles = {"tokens/s": SPEED, "J/token": ENERGY, title: QUALITY if is_scored else PERPLEXITY}
    return [(title, Column(summary, metric, task)) for title, metric in titles.items()]


def details_tables(summary: Summary) -> list[Table]:
    """Speed, energy, acceptance and text, of all tasks together and of each one."""
    groups = {
        "Speed": (SPEED, REQUEST_SPEED, END_TO_END_SPEED, WALL_SPEED),
        "Energy": (ENERGY, REQUEST_ENERGY, ACCEPTED_ENERGY),
        "Acceptance": (ACCEPTANCE_LENGTH, ACCEPTANCE_RATE, PATH_RATE),
        "Text": (PERPLEXITY, LOG_LIKELIHOOD, REPETITION, LENGTH, CUT_OFF),
    }
    return [_details(summary, title, metrics) for title, metrics in groups.items()]


def _details(summary: Summary, title: str, metrics: Sequence[Metric]) -> Table:
    together = [None] if len(summary.tasks) > 1 else []
    rows = [
        {
            "run": run,
            "task": task or "all",
            **{metric.title: Column(summary, metric, task).cell(run) for metric in metrics},
        }
        for run in summary.runs
        for task in [*together, *summary.tasks]
        if task is None or summary.num_items(run, task)
    ]
    return table_of(title, rows, num_labels=2, slug=title.lower())


def metrics_csv(summary: Summary) -> Table:
    """One row per run, task and metric; the task "all" is all tasks together."""
    columns = [
        Column(summary, metric, task)
        for task in [*summary.tasks, None]
        for metric in METRICS
        if metric is not QUALITY or task in summary.results.scored_tasks
    ]
    columns += [Column(summary, MEAN_QUALITY)]
    rows = [column.csv_row(run) for run in summary.runs for column in columns]
    return Table("Metrics", "run task metric value low high unit n".split(), rows)

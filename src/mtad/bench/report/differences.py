"""Every run against a reference, on the same items: better, worse, or no difference shown."""

from __future__ import annotations

from collections.abc import Sequence

from mtad.bench.report.column import MARK, Column
from mtad.bench.report.metrics import END_TO_END_SPEED, ENERGY, PERPLEXITY, SPEED
from mtad.bench.report.summary import Summary
from mtad.bench.report.table import Table
from mtad.bench.report.tables import quality_columns

_CSV = "run reference task metric kind value low high unit n verdict p_value".split()


def difference_tables(summary: Summary) -> list[Table]:
    """Quality and cost against the reference, and cost against speculative sampling."""
    quality, costs = quality_columns(summary), _cost_columns(summary)
    reference, *others = _references(summary)
    title = "Speed, energy, perplexity"
    tables = [_table(summary, reference, quality, "Quality", "quality-vs")] if quality else []
    tables += [_table(summary, reference, costs, title, "cost-vs")]
    tables += [_table(summary, run, costs, title, "cost-vs-speculative") for run in others]
    return tables


def differences_csv(summary: Summary) -> Table:
    """One row per run, reference, task and metric."""
    quality, costs = quality_columns(summary), _cost_columns(summary)
    rows = [
        column.compared_csv_row(run, reference)
        for reference, columns in zip(_references(summary), ([*quality, *costs], costs))  # noqa: B905
        for column in columns
        for run in summary.runs
        if run != reference
    ]
    return Table("Differences", _CSV, rows)


def _cost_columns(summary: Summary) -> list[Column]:
    """Speed, energy and perplexity of all tasks together, and the speed of each."""
    tasks = summary.tasks if len(summary.tasks) > 1 else []
    together = (SPEED, END_TO_END_SPEED, ENERGY, PERPLEXITY)
    return [
        *(Column(summary, metric) for metric in together),
        *(Column(summary, SPEED, task) for task in tasks),
    ]


def _references(summary: Summary) -> list[str]:
    """The run that all are compared with, and plain speculative sampling if it is another."""
    found = summary.results.reference_run, summary.results.speed_reference
    return list(dict.fromkeys(run for run in found if run is not None))


def _table(
    summary: Summary, reference: str, columns: Sequence[Column], title: str, slug: str
) -> Table:
    others = [run for run in summary.runs if run != reference]
    cells = [column.compared_cells(others, reference) for column in columns]
    rows = [[run, *row] for run, *row in zip(others, *cells, strict=True)]
    note = (
        f"Paired: each value compares a run with {reference} on the items that both have. "
        f'"Better" and "worse" mean that the whole 95 % interval is on that side; '
        f'"no difference shown" is not "no difference". Of runs that do not differ, one in twenty '
        f"is called better or worse by chance; verdicts with{MARK} hold even if all of their "
        f"column count together (Holm)."
    )
    headers = ["run", *(column.title(column.unit or "ratio") for column in columns)]
    return Table(f"{title}, against {reference}", headers, rows, note, slug=slug)

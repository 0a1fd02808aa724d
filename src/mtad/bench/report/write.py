"""Writes a report: Markdown, CSV, LaTeX, one HTML page, and the plots."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path

from mtad.atomic import write_bytes
from mtad.bench.report.baselines import baseline_table
from mtad.bench.report.canvas import Plot
from mtad.bench.report.differences import difference_tables, differences_csv
from mtad.bench.report.front import front_table
from mtad.bench.report.html import page
from mtad.bench.report.latex import latex
from mtad.bench.report.markdown import escaped, grid, markdown
from mtad.bench.report.plots import plots
from mtad.bench.report.provenance import (
    chosen_table,
    condition_tables,
    coverage_table,
    definition_table,
    further_table,
    phase_table,
    position_table,
    runs_table,
    warnings,
)
from mtad.bench.report.results import Results
from mtad.bench.report.summary import Summary
from mtad.bench.report.table import Table
from mtad.bench.report.tables import details_tables, main_table, metrics_csv, paper_table


def main_markdown(results: Results) -> str:
    """The compact table of one row per run, as Markdown without a title."""
    return grid(main_table(Summary(results)))


def write_report(results: Results, folder: Path, *, title: str = "Benchmark") -> list[Path]:
    """Write all files of the report; their paths.

    Args:
        results: what is reported.
        folder: made if it is not there; files of an earlier report are overwritten.
        title: of the report.

    Raises:
        DataError: see `Results.rows`.
        MtadError: matplotlib or jinja2 is not installed.
    """
    summary = Summary(results)
    tables, drawn, remarks = report_tables(summary), plots(summary), warnings(summary)
    first, *others = tables
    texts = {
        "report.md": markdown_page(title, remarks, [first, *drawn, *others]),
        "table.csv": csv_text(metrics_csv(summary)),
        "differences.csv": csv_text(differences_csv(summary)),
        "table.tex": "\n".join(latex(table) for table in tables[:2]),
        "report.html": page(title, remarks, tables, drawn),
    }
    return write_files(folder, texts, drawn)


def write_files(folder: Path, texts: Mapping[str, str], drawn: Iterable[Plot]) -> list[Path]:
    """Write texts by file name, and every plot in both formats; the paths."""
    files = {name: text.encode() for name, text in texts.items()}
    for plot in drawn:
        files |= {f"{plot.name}.svg": plot.svg, f"{plot.name}.png": plot.png}
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_bytes(folder / name, content)
    return [folder / name for name in files]


def report_tables(summary: Summary) -> list[Table]:
    """The sections of the report in their order; those without rows are left out."""
    results = summary.results
    tables = [
        main_table(summary),
        paper_table(summary),
        *difference_tables(summary),
        baseline_table(summary),
        front_table(results.front),
        *details_tables(summary),
        position_table(summary),
        phase_table(summary),
        further_table(results),
        chosen_table(results),
        coverage_table(summary),
        runs_table(summary),
        *condition_tables(results),
        definition_table(),
    ]
    return [table for table in tables if table.rows or table.slug.startswith("conditions")]


def csv_text(table: Table) -> str:
    """The table as CSV."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([table.headers, *table.rows])
    return stream.getvalue()


def markdown_page(title: str, remarks: Iterable[str], sections: Iterable[Table | Plot]) -> str:
    """The remarks as a list, then tables and links to plots in the order given."""
    parts = [f"# {escaped(title)}\n", *(f"- {escaped(remark)}" for remark in remarks), ""]
    return "\n".join([*parts, *map(_section, sections)])


def _section(section: Table | Plot) -> str:
    if isinstance(section, Table):
        return markdown(section)
    return f"![{escaped(section.caption)}]({section.name}.svg)\n"

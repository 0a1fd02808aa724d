"""Writes what a folder of rows shows: speed.md, speed.csv and the plots."""

from __future__ import annotations

from pathlib import Path

from mtad.bench.report.table import Table
from mtad.bench.report.write import csv_text, markdown_page, write_files
from mtad.bench.speed.others import other_table
from mtad.bench.speed.plots import PANELS, plots
from mtad.bench.speed.summary import Speed
from mtad.bench.speed.tables import (
    limit_table,
    main_table,
    overhead_table,
    ratio_table,
    results_csv,
    scaling_table,
)
from mtad.bench.speed.verdicts import verdicts


def write_speed(speed: Speed, folder: Path) -> list[Path]:
    """Write all files; their paths.

    Raises:
        MtadError: matplotlib is not installed.
    """
    drawn = plots(speed)
    remarks = [*_where(speed), *verdicts(speed)]
    texts = {
        "speed.md": markdown_page("Speed", remarks, [*drawn, *speed_tables(speed)]),
        "speed.csv": csv_text(results_csv(speed)),
    }
    return write_files(folder, texts, drawn)


def speed_tables(speed: Speed) -> list[Table]:
    """All tables in their order; those without rows are left out."""
    found = [main_table(speed), other_table(speed), ratio_table(speed), overhead_table(speed)]
    found += [scaling_table(speed, axis) for axis in PANELS]
    return [table for table in [*found, limit_table(speed)] if table.rows]


def _where(speed: Speed) -> list[str]:
    """On what it ran, one line per pair."""
    lines = []
    for facts in speed.conditions:
        target = facts["target"]
        lines.append(
            f"{facts['pair']}: {target['num_parameters']:,} parameters, {target['dtype']}, on "
            f"{facts['cpu'] if facts['device'] == 'cpu' else facts['device']}, "
            f"{facts['num_threads']} threads, torch {facts['versions']['torch']}, "
            f"energy meter {facts['meter']}"
        )
    return lines

"""Turns rows and scores into tables, plots and comparisons with intervals."""

from mtad.bench.report.canvas import Plot
from mtad.bench.report.results import Results, TaskInfo
from mtad.bench.report.summary import Summary
from mtad.bench.report.write import main_markdown as main_table
from mtad.bench.report.write import write_report

__all__ = [
    "Plot",
    "Results",
    "Summary",
    "TaskInfo",
    "main_table",
    "write_report",
]

"""The plots of a report: axes carry units, runs differ by marker and dash as well as colour."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from mtad.bench.report.canvas import (
    Plot,
    draw_cross,
    draw_dots,
    draw_line,
    error_bars,
    label_axes,
    new_figure,
    plain,
    plot_of,
    style,
)
from mtad.bench.report.column import Column
from mtad.bench.report.front import front_plot
from mtad.bench.report.lines import Line, varied_options
from mtad.bench.report.metrics import ENERGY, QUALITY, SPEED
from mtad.bench.report.provenance import positions
from mtad.bench.report.summary import Summary
from mtad.bench.statistics import Estimate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROW = 0.27
_PER_PANEL = 8


def plots(summary: Summary) -> list[Plot]:
    """The plots that the results have data for."""
    drawn = [
        quality_plot(summary),
        trade_plot(summary),
        front_plot(summary.results.front),
        position_plot(summary),
        energy_plot(summary),
        *(option_plot(summary, *varied) for varied in varied_options(summary).items()),
    ]
    return [plot for plot in drawn if plot is not None]


def quality_plot(summary: Summary) -> Plot | None:
    """The score of every run with its interval, one panel per task."""
    tasks = summary.results.scored_tasks
    if not tasks:
        return None
    figure = new_figure(3.0 + 3 * len(tasks), 1 + _ROW * len(summary.runs))
    panels = figure.subplots(1, len(tasks), squeeze=False, sharey=True)[0]
    for axes, task in zip(panels, tasks, strict=True):
        factor, unit, _ = Column(summary, QUALITY, task).scale
        draw_dots(axes, [summary.estimate(run, QUALITY, task) for run in summary.runs], factor)
        axes.set_xlabel(f"{summary.results.tasks[task].metric} ({unit})")
        axes.set_title(plain(task))
    panels[0].set_yticks(range(len(summary.runs)), [*map(plain, summary.runs)])
    return plot_of(figure, "quality", "Quality by task, with 95 % intervals over items")


def energy_plot(summary: Summary) -> Plot | None:
    """Joules per token of every run; None without a meter."""
    runs = [run for run in summary.runs if summary.is_measured(run, ENERGY)]
    if not runs:
        return None
    figure = new_figure(6.0, 1 + _ROW * len(runs))
    axes = figure.subplots()
    draw_dots(axes, [summary.estimate(run, ENERGY) for run in runs], 1.0)
    axes.set_yticks(range(len(runs)), [*map(plain, runs)])
    axes.set_xlabel("energy per output token (J/token), idle power included")
    axes.set_xlim(left=0)
    return plot_of(figure, "energy", "Energy per output token, with 95 % intervals over items")


def trade_plot(summary: Summary) -> Plot | None:
    """Relative speed against quality: up and to the right is better; None without both."""
    reference = summary.results.reference_run
    points = {
        run: (summary.compare(run, reference, SPEED).estimate, summary.mean_quality(run))
        for run in summary.runs
    }
    points = {run: at for run, at in points.items() if None not in (at[0].value, at[1].value)}
    if not points:
        return None
    figure = trade_figure(points, f"decode speed (tokens/s) relative to {plain(reference)}")
    return plot_of(figure, "trade", "Speed against quality, with 95 % intervals over items")


def trade_figure(points: Mapping[str, tuple[Estimate, Estimate]], speed_label: str) -> Figure:
    """Relative speed and quality of every run, with a number at each mark and in the legend."""
    figure = new_figure(9.0, max(4.5, 1 + 0.2 * len(points)))
    axes = figure.subplots()
    for index, (run, (speed, quality)) in enumerate(points.items()):
        at = draw_cross(axes, index, f"{index + 1}  {run}", speed, quality)
        axes.annotate(str(index + 1), at, (4, 4), textcoords="offset points", fontsize=7)
    axes.axvline(1.0, color="#888888", linewidth=0.8, linestyle=":")
    label_axes(axes, speed_label, "mean quality (0 to 100)")
    figure.legend(loc="outside right center", fontsize=7)
    return figure


def position_plot(summary: Summary) -> Plot | None:
    """Acceptance per position, at most eight runs in a panel; None if no run drafts."""
    rates = positions(summary.results)
    if not rates:
        return None
    groups = [[*rates][i : i + _PER_PANEL] for i in range(0, len(rates), _PER_PANEL)]
    shape = ((len(groups) + 1) // 2, min(2, len(groups)))
    figure = new_figure(5.0 * shape[1], 4.2 * shape[0])
    panels = figure.subplots(*shape, squeeze=False, sharex=True, sharey=True).flat
    for group, axes in zip(groups, panels, strict=False):
        for index, run in enumerate(group):
            draw_line(axes, index, run, enumerate(rates[run], start=1), 4)
        label_axes(axes, "position in the draft (tokens)", "share of steps that accept it")
        axes.set_ylim(0, 1.02)
        axes.set_xticks(range(1, max(map(len, rates.values())) + 1))
        axes.legend(fontsize=7)
    for axes in [*panels]:
        axes.set_visible(False)
    return plot_of(figure, "positions", "Acceptance per position of the draft")


def option_plot(summary: Summary, option: str, lines: Iterable[Line]) -> Plot | None:
    """Mean quality against a numeric option, one line per method; None without any scores."""
    drawn = {
        line.label: [(at, summary.mean_quality(run)) for run, at in line.places.items()]
        for line in lines
        if len(line.places) > 1
    }
    if all(estimate.value is None for points in drawn.values() for _, estimate in points):
        return None
    figure = new_figure(6.5, 4.2)
    axes = figure.subplots()
    for index, (label, points) in enumerate(drawn.items()):
        known = [(at, estimate) for at, estimate in points if estimate.value is not None]
        axes.errorbar(
            [at for at, _ in known],
            [estimate.value or 0.0 for _, estimate in known],
            yerr=error_bars([estimate for _, estimate in known]),
            **style(index),
            markersize=5,
            linewidth=1,
            capsize=2,
            label=plain(label),
        )
    label_axes(axes, option, "mean quality (0 to 100)")
    axes.legend(fontsize=8)
    caption = f"Mean quality against {option}, with 95 % intervals over items"
    return plot_of(figure, f"quality-by-{option}", caption)

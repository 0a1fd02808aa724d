"""The plot of a sweep: quality, perplexity, speed and energy as a threshold moves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from mtad.bench.report import Plot, Summary
from mtad.bench.report.canvas import error_bars, label_axes, new_figure, plain, plot_of, style
from mtad.bench.report.lines import Line, lines_by
from mtad.bench.report.metrics import ENERGY, MEAN_QUALITY, PERPLEXITY, SPEED
from mtad.bench.statistics import Estimate
from mtad.bench.sweep.choice import pareto_runs, values_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LABELS: Final = {
    MEAN_QUALITY: "mean quality (0 to 100)",
    PERPLEXITY: "perplexity of the output",
    SPEED: "decode speed (relative tokens/s)",
    ENERGY: "energy (J/token)",
}


def frontier_plot(summary: Summary, thresholds: Mapping[str, str]) -> Plot:
    """One panel per metric against the threshold; rings mark the Pareto set.

    Args:
        summary: the values of the runs.
        thresholds: by method, the option that is its threshold, such as
            {"mtad": "accept_threshold"}.
    """
    values = values_of(summary)
    best = pareto_runs(values)
    shown = {
        label: values[metric]
        for metric, label in _LABELS.items()
        if any(estimate.value is not None for estimate in values[metric].values())
    }
    lines = frontier_lines(summary, thresholds)
    num_rows = (len(shown) + 1) // 2
    figure = new_figure(10.0, 1 + 3.4 * num_rows)
    panels = figure.subplots(num_rows, 2, squeeze=False).flat
    for (label, by_run), axes in zip(shown.items(), panels, strict=False):
        for index, line in enumerate(lines):
            _draw(axes, line, by_run, best, style(index))
        label_axes(axes, "threshold", label)
    for axes in [*panels]:
        axes.set_visible(False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    figure.legend(unique.values(), unique.keys(), loc="outside lower center", ncols=3, fontsize=8)
    caption = (
        "Quality, perplexity, speed and energy against the threshold, with 95 % intervals; "
        "the Pareto set is that of the values, without regard to their intervals"
    )
    return plot_of(figure, "frontier", caption)


def frontier_lines(summary: Summary, thresholds: Mapping[str, str]) -> list[Line]:
    """A line without places for each run that has no threshold, then those by threshold."""
    lines = lines_by(summary, thresholds.get)
    placed = {run for line in lines for run in line.places}
    return [Line(run, {}) for run in summary.runs if run not in placed] + lines


def _draw(
    axes: Axes, line: Line, by_run: Mapping[str, Estimate], best: set[str], look: dict[str, Any]
) -> None:
    """A curve, or a level line for a run without a threshold; nothing where no value is known."""
    runs = [run for run in line.places or (line.label,) if by_run[run].value is not None]
    values = [by_run[run].value or 0.0 for run in runs]
    look = look | {"linewidth": 1, "label": plain(line.label)}
    if runs and line.places:
        bars = error_bars(by_run[run] for run in runs)
        places = [line.places[run] for run in runs]
        axes.errorbar(places, values, yerr=bars, **look, markersize=4, capsize=2)
        _ring(axes, line, {r: v for r, v in zip(runs, values, strict=True) if r in best})
    elif runs:
        mark = " (in the Pareto set)" if line.label in best else ""
        axes.axhline(values[0], **look | {"marker": "", "label": plain(line.label) + mark})


def _ring(axes: Axes, line: Line, values: Mapping[str, float]) -> None:
    """A ring around each of the values."""
    if values:
        axes.plot(
            [line.places[run] for run in values],
            [*values.values()],
            "o",
            markersize=11,
            markerfacecolor="none",
            markeredgecolor="black",
            label="in the Pareto set",
        )

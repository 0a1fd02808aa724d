"""The lossy dial: quality, perplexity, speed and energy as a threshold moves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mtad.bench.report.canvas import Plot, error_bars, grid_lines, new_figure, plain, plot_of, style
from mtad.bench.report.lines import lines_by
from mtad.bench.report.metrics import ENERGY, PERPLEXITY, SPEED
from mtad.bench.report.summary import Summary
from mtad.bench.statistics import Estimate, pareto

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class FrontierPoint:
    """A run on the frontier plot.

    Attributes:
        run: its label.
        line: the label of the line that it belongs to.
        threshold: where it stands on the horizontal axis; None for a method that has none, which
            becomes a level line.
        quality: mean quality, 0 to 100.
        perplexity: of the output.
        speed: tokens/s relative to the reference.
        energy: J/token, without a value where there is no meter.
    """

    run: str
    line: str
    threshold: float | None
    quality: Estimate
    perplexity: Estimate
    speed: Estimate
    energy: Estimate


def frontier_points(summary: Summary, thresholds: Mapping[str, str]) -> list[FrontierPoint]:
    """Every run as a point.

    Args:
        summary: the values of the runs.
        thresholds: by method, the option that is its threshold, such as
            {"mtad": "accept_threshold"}.
    """
    found = {
        run: (line.label, value)
        for line in lines_by(summary, thresholds.get)
        for run, value in line.places.items()
    }
    return [_point(summary, run, *found.get(run, (run, None))) for run in summary.runs]


def _point(summary: Summary, run: str, line: str, threshold: float | None) -> FrontierPoint:
    reference = summary.results.reference_run
    return FrontierPoint(
        run,
        line,
        threshold,
        summary.mean_quality(run),
        summary.estimate(run, PERPLEXITY),
        summary.compare(run, reference, SPEED).estimate,
        summary.estimate(run, ENERGY),
    )


def pareto_runs(points: Iterable[FrontierPoint]) -> set[str]:
    """The runs that no other beats in quality and speed, and in energy where all have it.

    Where no run has a quality, a low perplexity stands for it.
    """
    points = list(points)
    is_scored = any(point.quality.value is not None for point in points)
    with_energy = all(point.energy.value is not None for point in points)
    return {
        str(run)
        for run in pareto(
            {
                p.run: [
                    p.quality.value if is_scored else _negated(p.perplexity.value),
                    p.speed.value,
                    *([-(p.energy.value or 0.0)] if with_energy else []),
                ]
                for p in points
            }
        )
    }


def _negated(value: float | None) -> float | None:
    return None if value is None else -value


def frontier_plot(points: Sequence[FrontierPoint]) -> Plot:
    """One panel per metric against the threshold; rings mark the Pareto set."""
    best = pareto_runs(points)
    metrics: dict[str, Mapping[str, Estimate]] = {
        "mean quality (0 to 100)": {p.run: p.quality for p in points},
        "perplexity of the output": {p.run: p.perplexity for p in points},
        "decode speed (relative tokens/s)": {p.run: p.speed for p in points},
        "energy (J/token)": {p.run: p.energy for p in points},
    }
    shown = {
        label: by_run
        for label, by_run in metrics.items()
        if any(e.value is not None for e in by_run.values())
    }
    figure = new_figure(10.0, 1 + 3.4 * ((len(shown) + 1) // 2))
    panels = figure.subplots((len(shown) + 1) // 2, 2, squeeze=False).flat
    for (label, by_run), axes in zip(shown.items(), panels, strict=False):
        _panel(axes, label, by_run, points, best)
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


def _panel(
    axes: Axes,
    y_label: str,
    by_run: Mapping[str, Estimate],
    points: Sequence[FrontierPoint],
    best: set[str],
) -> None:
    for index, label in enumerate(dict.fromkeys(point.line for point in points)):
        line = [p for p in points if p.line == label and by_run[p.run].value is not None]
        if line:
            _line(axes, index, sorted(line, key=lambda p: p.threshold or 0.0), by_run, best)
    axes.set_xlabel("threshold")
    axes.set_ylabel(y_label)
    grid_lines(axes)


def _line(
    axes: Axes,
    index: int,
    points: Sequence[FrontierPoint],
    by_run: Mapping[str, Estimate],
    best: set[str],
) -> None:
    estimates = [by_run[point.run] for point in points]
    values = [e.value or 0.0 for e in estimates]
    look = style(index) | {"linewidth": 1, "label": plain(points[0].line)}
    if any(point.threshold is None for point in points):
        mark = " (in the Pareto set)" if points[0].run in best else ""
        look |= {"marker": "", "label": plain(points[0].line) + mark}
        axes.axhline(values[0], **look)
        return
    places = [point.threshold or 0.0 for point in points]
    axes.errorbar(places, values, yerr=error_bars(estimates), **look, markersize=4, capsize=2)
    ringed = [i for i, point in enumerate(points) if point.run in best]
    if not ringed:
        return
    axes.plot(
        [places[i] for i in ringed],
        [values[i] for i in ringed],
        "o",
        markersize=11,
        markerfacecolor="none",
        markeredgecolor="black",
        label="in the Pareto set",
    )

"""The plots: the time of an iteration beside its limit, and results along each axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mtad.bench.report.canvas import (
    Plot,
    draw_line,
    grid_lines,
    label_axes,
    new_figure,
    plain,
    plot_of,
)
from mtad.bench.speed.plan import OPTIONS
from mtad.bench.speed.summary import PARTS, RunResult, Speed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LOOKS = {
    "draft": {"color": "#0b57a4"},
    "target": {"color": "#9dc3e6"},
    "verify": {"color": "#c4450c", "hatch": "//"},
    "overhead": {"color": "#bbbbbb", "hatch": ".."},
}


def plots(speed: Speed) -> list[Plot]:
    """The plots that there are rows for."""
    drawn = [iteration_plot(speed)]
    drawn += [scaling_plot(speed, axis) for axis in PANELS if speed.results(axis)]
    return [plot for plot in drawn if plot is not None]


def iteration_plot(speed: Speed) -> Plot | None:
    """Stacked time per iteration with the limit drawn in; None if nothing was observed."""
    runs = [f for f in speed.main.values() if f.parts_s]
    if not runs:
        return None
    figure = new_figure(7.5, 1.4 + 0.4 * len(runs))
    axes = figure.subplots()
    left = [0.0] * len(runs)
    for part in PARTS:
        widths = [1e3 * f.parts_s[part] for f in runs]
        axes.barh(range(len(runs)), widths, left=left, label=part, height=0.6, **_look(part))
        left = [a + b for a, b in zip(left, widths, strict=True)]
    limits = [1e3 * (f.limit_s or 0.0) for f in runs]
    for place, limit in enumerate(limits):
        label = "limit" if place == 0 else None
        ends = place - 0.42, place + 0.42
        axes.plot([limit, limit], ends, color="#000000", linewidth=2.5, label=label)
    axes.set_yticks(range(len(runs)), [plain(f.row.run) for f in runs])
    axes.set_ylim(len(runs) - 0.5, -0.5)
    axes.set_xlabel("time per iteration (ms)")
    grid_lines(axes)
    figure.legend(loc="outside lower center", ncols=5, fontsize=8)
    return plot_of(figure, "iteration", "Time per iteration by part, and its limit")


def _look(part: str) -> dict[str, Any]:
    return {"edgecolor": "#333333", "linewidth": 0.5, **_LOOKS[part]}


Panel = tuple[str, Callable[[RunResult], float | None]]
"""Label of the vertical axis, with its unit, and the value of a run there."""


def _rate(result: RunResult) -> float | None:
    found = result.tokens_per_s
    return None if found is None else found.value


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else factor * value


_RATE: Panel = ("tokens/s", _rate)
_LATENCY: Panel = ("ms per token of a text", lambda r: _scaled(r.token_latency_s, 1e3))
_ACCEPTANCE: Panel = ("mean acceptance length", lambda r: r.mean_acceptance_length)
_MEMORY: Panel = ("peak memory (MB)", lambda r: _scaled(r.peak_bytes, 1e-6))
_FRACTION: Panel = ("share of the limit (%)", lambda r: _scaled(r.fraction, 1e2))

PANELS: dict[str, tuple[str, tuple[Panel, Panel]]] = {
    "batch": ("batch size (texts)", (_RATE, _LATENCY)),
    "context": ("context (tokens)", (_LATENCY, _MEMORY)),
    "width": ("beam width", (_RATE, _ACCEPTANCE)),
    "length": ("draft tokens per iteration", (_RATE, _ACCEPTANCE)),
    "size": ("parameters of the target", (_RATE, _FRACTION)),
}
"""What is drawn along each axis."""


def scaling_plot(speed: Speed, axis: str) -> Plot | None:
    """Two panels along an axis, one line per run; None without results."""
    label, panels = PANELS[axis]
    found = [f for f in speed.results(axis) if f.all]
    if not found:
        return None
    figure = new_figure(9.0, 4.0)
    for axes, panel in zip(figure.subplots(1, 2), panels, strict=True):
        _draw(axes, panel, found)
        label_axes(axes, label, panel[0])
        if axis not in OPTIONS:
            axes.set_xscale("log", base=10 if axis == "size" else 2)
        if axis == "size" and panel is _RATE:
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        if axis != "size":
            ticks = sorted({_place(f) for f in found})
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8)
    return plot_of(figure, f"scaling-{axis}", f"{panels[0][0]} and {panels[1][0]} by {axis}")


def _draw(axes: Axes, panel: Panel, found: Sequence[RunResult]) -> None:
    lines: dict[str, list[tuple[float, float]]] = {}
    for result in found:
        if (value := panel[1](result)) is not None:
            lines.setdefault(result.row.run, []).append((_place(result), value))
    for index, (run, points) in enumerate(lines.items()):
        draw_line(axes, index, run, points, 5)


def _place(result: RunResult) -> float:
    """The value on the axis; a pair stands where its target's parameters are."""
    if result.row.axis == "size":
        return float(result.cost.models["target"].num_parameters)
    return float(result.row.at)

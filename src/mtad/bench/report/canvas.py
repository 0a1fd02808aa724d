"""Plots as values, and marker styles that do not need colour to be distinct."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mtad.bench.statistics import Estimate
from mtad.errors import MtadError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = "osD^vP*X<>hpd8H1234"
DASHES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))
# dark enough on white and of different lightness, so that a grey print keeps them apart
COLOURS = ("#000000", "#0b57a4", "#c4450c", "#5a5a5a", "#1b7837", "#8a5bb5", "#a07a00", "#d0659b")


@dataclass(frozen=True)
class Plot:
    """A plot in both formats.

    Attributes:
        name: of its files, without an ending.
        caption: what it shows.
        svg, png: the files.
    """

    name: str
    caption: str
    svg: bytes
    png: bytes


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of that many inches.

    Raises:
        MtadError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MtadError("plots need matplotlib: pip install matplotlib") from error
    return Figure(figsize=(width, height), layout="constrained")


def plot_of(figure: Figure, name: str, caption: str) -> Plot:
    """The drawn figure; the same bytes for the same drawing."""
    return Plot(name, caption, _saved(figure, "svg"), _saved(figure, "png"))


def _saved(figure: Figure, kind: str) -> bytes:
    from matplotlib import rc_context

    stream = io.BytesIO()
    # without these the file holds the time and random names
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    with rc_context({"svg.hashsalt": "mtad"}):
        figure.savefig(stream, format=kind, dpi=150, metadata=metadata)
    return stream.getvalue()


def plain(label: str) -> str:
    """The label as matplotlib shows it unchanged: no formula, and not left out of a legend."""
    return (" " if label.startswith("_") else "") + label.replace("$", r"\$")


def style(index: int) -> dict[str, Any]:
    """Marker, line and colour of the run or method with that number."""
    return {
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": DASHES[index % len(DASHES)],
        "color": COLOURS[index % len(COLOURS)],
    }


def error_bars(estimates: Iterable[Estimate], factor: float = 1.0) -> list[list[float]]:
    """How far the intervals reach below and above their values, as matplotlib takes it."""
    ends = [(e.value or 0.0, e.low, e.high) for e in estimates]
    below = [0.0 if low is None else factor * max(0.0, value - low) for value, low, _ in ends]
    above = [0.0 if high is None else factor * max(0.0, high - value) for value, _, high in ends]
    return [below, above]


def grid_lines(axes: Axes) -> None:
    """Faint lines behind the marks."""
    axes.grid(visible=True, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


def label_axes(axes: Axes, x_label: str, y_label: str) -> None:
    """Labels with their units, and faint lines behind the marks."""
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    grid_lines(axes)


def draw_line(
    axes: Axes, index: int, label: str, points: Iterable[tuple[float, float]], size: float
) -> None:
    """The points of a run or method, joined, from left to right."""
    xs, ys = zip(*sorted(points), strict=True)
    axes.plot(xs, ys, **style(index), markersize=size, linewidth=1, label=plain(label))


def draw_cross(axes: Axes, index: int, label: str, x: Estimate, y: Estimate) -> tuple[float, float]:
    """The mark of a run or method with both intervals; where it is."""
    at = x.value or 0.0, y.value or 0.0
    axes.errorbar(
        *at,
        xerr=error_bars([x]),
        yerr=error_bars([y]),
        **style(index) | {"linestyle": "none"},
        markersize=6,
        capsize=2,
        elinewidth=0.8,
        label=plain(label),
    )
    return at


def draw_dots(axes: Axes, estimates: Sequence[Estimate], factor: float) -> None:
    """One dot with its interval per row, from the top; rows without a value stay empty."""
    rows = [(row, e) for row, e in enumerate(estimates) if e.value is not None]
    axes.errorbar(
        [factor * (e.value or 0.0) for _, e in rows],
        [row for row, _ in rows],
        xerr=error_bars([e for _, e in rows], factor),
        fmt=MARKERS[0],
        color=COLOURS[0],
        markersize=4,
        capsize=2,
        linewidth=1,
    )
    axes.set_ylim(len(estimates) - 0.5, -0.5)
    grid_lines(axes)

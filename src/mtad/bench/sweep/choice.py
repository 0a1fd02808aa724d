"""What the settings of a sweep are worth, and which of them to take. Knows no files.

The reference is plain sampling, whose law the lossless methods keep.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from mtad.bench.plan import Recipe, Run
from mtad.bench.report import Summary
from mtad.bench.report.metrics import ENERGY, MEAN_QUALITY, PERPLEXITY, SPEED, Metric
from mtad.bench.statistics import MIN_ITEMS, Estimate, farthest_from_end, pareto
from mtad.speculative.method import Method

Kind = Literal["lossless", "greedy", "cooler", "lossy"]
Values: TypeAlias = Mapping[Metric, Mapping[str, Estimate]]
"""By metric and run; speed is relative to the reference."""

_ROUNDING: Final = 1e-9


@dataclass(frozen=True)
class Setting:
    """One row of the sweep.

    Attributes:
        run: its label.
        method: with its options.
        kind: "lossless" if its answers follow the law of the reference, "greedy" if it takes the
            likeliest token instead of a sample, "cooler" if it samples at another temperature,
            else "lossy".
        gain: quality against the reference; see `gain`.
        speed: tokens/s relative to the reference.
        is_pareto: whether it is one of `pareto_runs`.
    """

    run: str
    method: Method
    kind: Kind
    gain: Estimate
    speed: Estimate
    is_pareto: bool = False


def settings_of(summary: Summary, recipe: Recipe) -> list[Setting]:
    """Every run of the recipe that has rows, in its order."""
    reference = recipe.reference_run
    values = values_of(summary)
    best = pareto_runs(values)
    return [
        Setting(
            run.name,
            run.points[0].method,
            _kind(run, reference),
            gain(summary, run.name, reference.name),
            values[SPEED][run.name],
            run.name in best,
        )
        for run in recipe.runs
        if run.name in summary.runs
    ]


def _kind(run: Run, reference: Run) -> Kind:
    if run.sampling != reference.sampling:
        return "cooler" if run.is_random else "greedy"
    return "lossless" if run.points[0].method.is_lossless else "lossy"


def values_of(summary: Summary) -> Values:
    """Quality (0 to 100), perplexity, relative speed and J/token of every run."""
    runs, reference = summary.runs, summary.results.reference_run
    found = {
        metric: {run: summary.estimate(run, metric) for run in runs}
        for metric in (MEAN_QUALITY, PERPLEXITY, ENERGY)
    }
    return found | {SPEED: {run: summary.compare(run, reference, SPEED).estimate for run in runs}}


def pareto_runs(values: Values) -> set[str]:
    """The runs that no other beats in quality and speed, and in energy where all have it.

    Where no run has a quality, a low perplexity stands for it.
    """
    is_scored = any(e.value is not None for e in values[MEAN_QUALITY].values())
    with_energy = all(e.value is not None for e in values[ENERGY].values())
    metrics = [MEAN_QUALITY if is_scored else PERPLEXITY, SPEED, *([ENERGY] if with_energy else [])]
    points: dict[Hashable, list[float | None]] = {
        run: [_upward(metric, values[metric][run].value) for metric in metrics]
        for run in values[SPEED]
    }
    return {str(run) for run in pareto(points)}


def _upward(metric: Metric, value: float | None) -> float | None:
    """The value so that a higher one is better."""
    return -value if value is not None and metric.better == "lower" else value


def gain(summary: Summary, run: str, other: str) -> Estimate:
    """How much better a run is than another, paired, negative for a loss.

    In points of 100 of quality; without scores by how many per cent the perplexity is lower.
    """
    if summary.results.scored_tasks:
        return _widened(summary.compare(run, other, MEAN_QUALITY).estimate)
    ratio = summary.compare(run, other, PERPLEXITY).estimate
    value, low, high = (
        None if x is None else 100 * (1 - x) for x in (ratio.value, ratio.high, ratio.low)
    )
    return Estimate(value, low, high, ratio.num_items)


def _widened(estimate: Estimate) -> Estimate:
    """The difference; if it is the same on every resample, with the exact bound for its interval.

    Items that all agree would otherwise pass for certainty, however few they are.
    """
    if estimate.low is None or estimate.high is None or estimate.low < estimate.high:
        return estimate
    reach = 100 * farthest_from_end(estimate.num_items)
    low, high = estimate.low - reach, estimate.high + reach
    return dataclasses.replace(estimate, low=low, high=high)


def can_lose(summary: Summary, max_loss: float) -> bool:
    """Whether the reference has more quality than the loss that is allowed, so that it would show.

    Without scores there always is: a perplexity has no upper end.
    """
    quality = summary.mean_quality(summary.results.reference_run).value
    return quality is None or quality > max_loss + _ROUNDING


def is_shown_below(max_loss: float, found: Estimate) -> bool:
    """Whether the whole interval of a gain says that less than `max_loss` is lost.

    A test of non-inferiority. That no difference is shown would not do: with few items none ever
    is. An interval without width is none.
    """
    low, high = found.low, found.high
    return low is not None and low != high and low > -max_loss + _ROUNDING


def is_measured_within(max_loss: float, found: Estimate) -> bool:
    """Whether the mean gain is a loss of at most `max_loss`, whatever its interval."""
    return found.value is not None and found.value >= -max_loss - _ROUNDING


def allowed(settings: Iterable[Setting], is_small: Callable[[Estimate], bool]) -> list[Setting]:
    """The lossless settings, and the lossy ones of enough items whose loss is small."""
    return [
        s
        for s in settings
        if s.kind == "lossless"
        or (s.kind == "lossy" and s.gain.num_items >= MIN_ITEMS and is_small(s.gain))
    ]


def fastest(settings: Iterable[Setting]) -> Setting | None:
    """The one with the most tokens/s; of equals the first, None if no speed is known."""
    known = [s for s in settings if s.speed.value is not None]
    return max(known, key=lambda s: s.speed.value or 0.0, default=None)


def better_greedy(summary: Summary, settings: Iterable[Setting], than: Setting) -> Setting | None:
    """The fastest greedy setting that was measured both better and faster than another."""
    return fastest(
        s
        for s in settings
        if s.kind == "greedy"
        and (gain(summary, s.run, than.run).value or 0.0) > 0
        and (summary.compare(s.run, than.run, SPEED).estimate.value or 0.0) > 1
    )

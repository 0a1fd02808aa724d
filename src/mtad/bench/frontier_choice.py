"""Which setting of a sweep to take: what each is worth, and the rules of choice.

The reference is plain sampling, whose law the lossless methods keep. Knows no files.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from mtad.bench.plan import Point, Recipe, Run
from mtad.bench.report import FrontierPoint, Summary, frontier_points
from mtad.bench.report.frontier import pareto_runs
from mtad.bench.report.metrics import ACCEPTANCE_LENGTH, PERPLEXITY, REPETITION, SPEED
from mtad.bench.statistics import MIN_ITEMS, Comparison, Estimate, farthest_from_end
from mtad.speculative.method import Method

Kind = Literal["lossless", "greedy", "lossy"]

_ROUNDING: Final = 1e-9


@dataclass(frozen=True)
class Setting(FrontierPoint):
    """One row of the sweep.

    Attributes:
        point: the method with its options.
        kind: "lossless" if its answers follow the law of the reference, "greedy" if it takes the
            likeliest token instead of a sample, else "lossy".
        gain: quality against the reference in points of 100, paired, negative for a loss; without
            scores by how many per cent the perplexity is lower.
        repetition, acceptance_length: of the output.
        is_pareto: whether no other setting beats it in quality and speed (and energy, if known).
    """

    point: Point
    kind: Kind
    gain: Estimate
    repetition: Estimate
    acceptance_length: Estimate
    is_pareto: bool = False


def settings_of(summary: Summary, recipe: Recipe) -> list[Setting]:
    """Every run of the recipe that has rows, in its order."""
    dials = {m.name: m.dial.option for m in map(_method_of, recipe.runs) if m.dial is not None}
    places = {point.run: point for point in frontier_points(summary, dials)}
    reference = next(run for run in recipe.runs if run.name == recipe.reference)
    found = [
        _setting(summary, run, reference, places[run.name])
        for run in recipe.runs
        if run.name in places
    ]
    best = pareto_runs(found)
    return [dataclasses.replace(s, is_pareto=s.run in best) for s in found]


def _method_of(run: Run) -> Method:
    return run.points[0].method


def _setting(summary: Summary, run: Run, reference: Run, place: FrontierPoint) -> Setting:
    return Setting(
        **vars(place),
        point=run.points[0],
        kind=_kind(run, reference),
        gain=gain(summary, run.name, reference.name),
        repetition=summary.estimate(run.name, REPETITION),
        acceptance_length=summary.estimate(run.name, ACCEPTANCE_LENGTH),
    )


def _kind(run: Run, reference: Run) -> Kind:
    if run.sampling != reference.sampling:
        return "greedy"
    return "lossless" if _method_of(run).is_lossless else "lossy"


def gain(summary: Summary, run: str, other: str) -> Estimate:
    """By how many points of 100, or per cent of perplexity, a run is better than another."""
    if summary.results.scored_tasks:
        return _widened(summary.compare_mean_quality(run, other))
    ratio = summary.compare(run, other, PERPLEXITY).estimate
    value, low, high = (_per_cent_lower(x) for x in (ratio.value, ratio.high, ratio.low))
    return Estimate(value, low, high, ratio.num_items)


def _per_cent_lower(ratio: float | None) -> float | None:
    return None if ratio is None else 100 * (1 - ratio)


def _widened(comparison: Comparison) -> Estimate:
    """The difference; if it is the same on every resample, with the exact bound for its interval.

    Items that all agree would otherwise pass for certainty, however few they are.
    """
    estimate = comparison.estimate
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


def without_shown_loss(settings: Sequence[Setting], max_loss: float) -> list[Setting]:
    """The settings that lose less than `max_loss` for all the interval says; lossless ones always.

    A test of non-inferiority. That no difference is shown would not do: with few items none ever
    is.

    Args:
        settings: all of them.
        max_loss: the margin, in points of 100 or per cent.
    """
    return [s for s in settings if s.kind == "lossless" or _is_not_inferior(s, max_loss)]


def _is_not_inferior(setting: Setting, max_loss: float) -> bool:
    low = setting.gain.low
    return (
        setting.kind == "lossy"
        and _has_enough(setting.gain)
        and low is not None
        and low != setting.gain.high  # an interval without width is none
        and low > -max_loss + _ROUNDING
    )


def within_mean_loss(settings: Sequence[Setting], max_loss: float) -> list[Setting]:
    """The settings whose measured mean loss is at most `max_loss`; lossless ones always."""
    return [
        s
        for s in settings
        if s.kind == "lossless"
        or (
            s.kind == "lossy"
            and _has_enough(s.gain)
            and s.gain.value is not None
            and s.gain.value >= -max_loss - _ROUNDING
        )
    ]


def _has_enough(estimate: Estimate) -> bool:
    return estimate.num_items >= MIN_ITEMS


def fastest(settings: Iterable[Setting]) -> Setting | None:
    """The one with the most tokens/s; of equals the first, None if no speed is known."""
    known = [s for s in settings if s.speed.value is not None]
    return max(known, key=lambda s: s.speed.value or 0.0, default=None)


def better_greedy(summary: Summary, settings: Iterable[Setting], than: Setting) -> Setting | None:
    """The fastest greedy setting that was measured both better and faster than another."""
    found = [
        s
        for s in settings
        if s.kind == "greedy"
        and (gain(summary, s.run, than.run).value or 0.0) > 0
        and (summary.compare(s.run, than.run, SPEED).estimate.value or 0.0) > 1
    ]
    return fastest(found)

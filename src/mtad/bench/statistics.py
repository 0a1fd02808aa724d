"""Intervals by resampling items, paired comparisons, and the Pareto set.

Every metric of a report is a ratio of sums over items. The item is the cluster: all of its seeds
are drawn together. All runs share the same resamples, so a difference of two runs is a difference
on the same items in every resample. Knows no files, tasks or metrics.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float64]
Verdict: TypeAlias = Literal["better", "worse", "no difference shown", "too few items", "–"]

NUM_RESAMPLES = 2000
LEVEL = 0.95
MIN_ITEMS = 10
"""With fewer common items a bootstrap interval is too narrow to call a run better or worse."""


@dataclass(frozen=True)
class Estimate:
    """A value with its interval; None where there is nothing to divide by or to resample.

    Attributes:
        value: on all items.
        low, high: the ends of the 95 % interval.
        num_items: items that take part.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    num_items: int = 0


@dataclass(frozen=True)
class Comparison:
    """One run against another on their common items.

    Attributes:
        estimate: the difference or the ratio.
        verdict: what the interval says; "better" only if all of it is on the better side.
        p_value: two-sided, by the normal approximation with the bootstrap's standard error.
    """

    estimate: Estimate
    verdict: Verdict
    p_value: float | None = None


@dataclass(frozen=True, eq=False)
class Resampled:
    """A value on all items and on every resample of them; NaN where a denominator is 0.

    Attributes:
        values: (1 + resamples,), the one on all items first.
        num_items: items that take part.
    """

    values: Floats
    num_items: int

    @property
    def value(self) -> float:
        """The value on all items."""
        return float(self.values[0])

    @property
    def draws(self) -> Floats:
        """The values on the resamples, (resamples,)."""
        return self.values[1:]

    def map(self, function: Callable[[Floats], Floats]) -> Resampled:
        """The value after `function`, which works element by element."""
        return Resampled(function(self.values), self.num_items)

    def minus(self, other: Resampled) -> Resampled:
        """The paired difference; both must come from the same resamples."""
        return Resampled(self.values - other.values, min(self.num_items, other.num_items))

    def over(self, other: Resampled) -> Resampled:
        """The paired ratio; both must come from the same resamples."""
        return ratio(self.values, other.values, min(self.num_items, other.num_items))

    def estimate(self) -> Estimate:
        """The value with its percentile interval; without one if fewer than two items remain."""
        if not math.isfinite(self.value):
            return Estimate(None, num_items=self.num_items)
        if self.num_items < 2 or not np.isfinite(self.draws).all():
            return Estimate(self.value, num_items=self.num_items)
        tail = (1 - LEVEL) / 2
        low, high = np.quantile(self.draws, [tail, 1 - tail])
        return Estimate(self.value, float(low), float(high), self.num_items)


def resamples(strata: Sequence[int], seed: int = 0, num_resamples: int = NUM_RESAMPLES) -> Floats:
    """How often each item is in each resample, (resamples, items).

    Args:
        strata: number of items of each task; every resample has as many of each as the original.
        seed: of the random numbers; the same for all runs.
        num_resamples: rows.
    """
    random = np.random.default_rng(seed)
    parts = [random.multinomial(n, np.full(n, 1 / n), num_resamples) for n in strata if n]
    return np.concatenate([np.zeros((num_resamples, 0)), *parts], axis=1)


def sums(values: Floats, weights: Floats) -> Floats:
    """The sum of all items' values and of each resample's, (…, 1 + resamples).

    Args:
        values: (…, items).
        weights: (resamples, items), from `resamples`.
    """
    return np.concatenate([values.sum(axis=-1, keepdims=True), values @ weights.T], axis=-1)


def ratio(num: Floats, den: Floats, num_items: int) -> Resampled:
    """A ratio of sums, NaN where the denominator is 0.

    Args:
        num, den: (1 + resamples,), from `sums`.
        num_items: items that take part.
    """
    values = np.divide(num, den, out=np.full_like(num, np.nan), where=den != 0)
    return Resampled(values, num_items)


def mean_of(parts: Sequence[Resampled]) -> Resampled:
    """The plain mean of several values of the same resamples, such as one per task; else NaN."""
    if not parts:
        return Resampled(np.full(1, np.nan), 0)
    values = np.mean([part.values for part in parts], axis=0)
    return Resampled(values, sum(part.num_items for part in parts))


def judge(
    resampled: Resampled, neutral: Literal[0, 1], better: Literal["higher", "lower", ""]
) -> Comparison:
    """The verdict on a paired difference (neutral 0) or ratio (neutral 1).

    Args:
        resampled: from `Resampled.minus` or `Resampled.over`.
        neutral: the value of two equal runs.
        better: which direction is good; "" for neither.
    """
    estimate = resampled.estimate()
    if estimate.value is None:
        return Comparison(estimate, "–")
    p_value = _p_value(resampled.map(np.log) if neutral == 1 else resampled)
    return Comparison(estimate, _verdict(estimate, neutral, better), p_value)


def _verdict(estimate: Estimate, neutral: int, better: str) -> Verdict:
    if not better:
        return "–"
    if estimate.num_items < MIN_ITEMS or estimate.low is None or estimate.high is None:
        return "too few items"
    if estimate.low <= neutral <= estimate.high:
        return "no difference shown"
    return "better" if (estimate.low > neutral) == (better == "higher") else "worse"


def _p_value(resampled: Resampled) -> float | None:
    if resampled.num_items < MIN_ITEMS or not np.isfinite(resampled.draws).all():
        return None
    error = float(resampled.draws.std(ddof=1))
    if error == 0:
        return 1.0 if resampled.value == 0 else 0.0
    return 2 * NormalDist().cdf(-abs(resampled.value) / error)


def holm(p_values: Sequence[float | None], level: float = 1 - LEVEL) -> list[bool]:
    """Which comparisons still show a difference when all of them count as one family.

    Holm's step-down rule; None counts neither as a member nor as a difference.

    Args:
        p_values: one per comparison.
        level: chance of any false difference in the family.
    """
    order = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    shown = [False] * len(p_values)
    for rank, (p, i) in enumerate(order):
        if p > level / (len(order) - rank):
            break
        shown[i] = True
    return shown


def farthest_from_end(num_items: int) -> float:
    """How far the mean may be from the end of the scale if all items are at it, as a share.

    The exact binomial (Clopper and Pearson) bound; resampling equal scores would show none.
    """
    return 1 - float(((1 - LEVEL) / 2) ** (1 / num_items))


def pareto(points: Mapping[Hashable, Sequence[float | None]]) -> set[Hashable]:
    """The names of the points that no other point beats.

    A point is beaten by one that is at least as good in every coordinate and better in one.
    Points of which a coordinate is None (unknown) are never in the set.

    Args:
        points: coordinates by name, each "the higher, the better"; negate energy.
    """
    known = {
        name: [x for x in at if x is not None]
        for name, at in points.items()
        if all(x is not None and not math.isnan(x) for x in at)
    }
    return {n for n, at in known.items() if not any(_beats(b, at) for b in known.values())}


def _beats(one: Sequence[float], other: Sequence[float]) -> bool:
    at_least = all(a >= b for a, b in zip(one, other, strict=True))
    return at_least and any(a > b for a, b in zip(one, other, strict=True))

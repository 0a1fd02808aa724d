"""Chi-squared tests of counts against a known law, their power, and a distance with its interval.

Knows no model. Counts are of independent draws, laws are probabilities that sum to 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import torch


def chi2_tail(x: float, df: int) -> float:
    """P(X >= x) of a chi-squared variable; 1 without degrees of freedom."""
    if df < 1:
        return 1.0
    halves = torch.tensor([df / 2, max(x, 0.0) / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(halves[0], halves[1]))


def critical_value(level: float, df: int) -> float:
    """The x whose `chi2_tail` is `level`."""
    low, high = 0.0, df + 10.0
    while chi2_tail(high, df) > level:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if chi2_tail(middle, df) > level else (low, middle)
    return high


def power(level: float, df: int, noncentrality: float) -> float:
    """The chance that a chi-squared test finds what shifts its statistic by so much.

    The noncentral chi-squared law is the mixture of central ones with df + 2k degrees of freedom,
    k from a Poisson law of mean λ / 2.

    Args:
        level: chance of a false alarm.
        df: degrees of freedom; a test without any finds nothing.
        noncentrality: λ, the sum of (expected count − expected count under the law)² / the latter.
    """
    if df < 1:
        return 0.0
    x, mean = critical_value(level, df), noncentrality / 2
    reach = 10 * math.sqrt(mean) + 30
    k = torch.arange(max(0, int(mean - reach)), int(mean + reach) + 1, dtype=torch.float64)
    weights = (torch.xlogy(k, torch.full_like(k, mean)) - mean - torch.lgamma(k + 1)).exp()
    tails = torch.special.gammaincc(df / 2 + k, torch.full_like(k, x / 2))
    return min(1.0, float((weights * tails).sum()))


def least_shift(law: Sequence[float], bias: float) -> float:
    """The least noncentrality per draw of any law that is so far away in total variation.

    What moves δ of the mass out of a set A is hardest to see where it takes from all of A, and
    gives to all others, in proportion to their probabilities: δ² / (P(A) (1 − P(A))), by the
    inequality of Cauchy and Schwarz. The least over all A; at least 4 δ².

    Args:
        law: of a few bins.
        bias: δ.
    """
    places = range(len(law))
    sets = (one for size in range(1, len(law) // 2 + 1) for one in combinations(places, size))
    masses = [math.fsum(law[place] for place in one) for one in sets]
    most = max((mass * (1 - mass) for mass in masses), default=0.0)
    return bias * bias / most if most > 0 else 0.0


def pearson(counts: Sequence[int], law: Sequence[float]) -> float:
    """Pearson's X² of counts; k bins have k − 1 degrees of freedom."""
    total = sum(counts)
    return math.fsum((c - total * p) ** 2 / (total * p) for c, p in zip(counts, law, strict=True))


def rare_tail(count: int, expected: float) -> float:
    """P(X >= count) of what is expected rarely, by Poisson's law; 0 for what cannot be."""
    if count == 0:
        return 1.0
    if expected <= 0:
        return 0.0
    values = torch.tensor([float(count), expected], dtype=torch.float64)
    return float(torch.special.gammainc(values[0], values[1]))


def distance(
    tables: Sequence[tuple[Sequence[int], Sequence[float]]], level: float = 0.95
) -> tuple[float, float, float]:
    """The mean total variation between the draws' laws and the known ones, and its interval.

    The plug-in estimate T of m tables of N draws in all is too large on average, by at most half
    the sum of the standard errors of all bins, and moves by at most 1 / (m n) with one draw of a
    table of n, hence by McDiarmid's inequality less than t from its mean with a chance of `level`.

    Args:
        tables: counts and law of each, over the same bins.
        level: the least chance that the interval holds the truth.
    """
    tables = [(counts, law) for counts, law in tables if sum(counts)]
    if not tables:
        return 0.0, 0.0, 1.0
    found, excess, squares, m = 0.0, 0.0, 0.0, len(tables)
    for counts, law in tables:
        n = sum(counts)
        pairs = [(count / n, p) for count, p in zip(counts, law, strict=True)]
        found += math.fsum(abs(share - p) for share, p in pairs) / 2 / m
        errors = (max(share * (1 - share), 1 / n) / n for share, _ in pairs)
        excess += math.fsum(map(math.sqrt, errors)) / 2 / m
        squares += 1 / (m * m * n)
    t = math.sqrt(math.log(2 / (1 - level)) * squares / 2)
    return found, max(0.0, found - excess - t), min(1.0, found + t)

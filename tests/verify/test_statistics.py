"""Chi-squared tests, their power and the distance, against scipy and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from mtad.verify.statistics import (
    chi2_tail,
    critical_value,
    distance,
    least_shift,
    pearson,
    power,
    rare_tail,
)

LAW = [0.5, 0.3, 0.15, 0.05]


@pytest.mark.parametrize("df", [1, 4, 60])
def test_tails_are_those_of_scipy(df: int) -> None:
    for x in (0.5, 5.0, 50.0):
        assert chi2_tail(x, df) == pytest.approx(stats.chi2.sf(x, df), rel=1e-6, abs=1e-12)
    assert critical_value(0.001, df) == pytest.approx(stats.chi2.isf(0.001, df), rel=1e-6)


@pytest.mark.parametrize("df", [1, 7, 50])
@pytest.mark.parametrize("shift", [0.0, 3.0, 40.0, 400.0])
def test_power_is_the_tail_of_the_noncentral_law(df: int, shift: float) -> None:
    x = stats.chi2.isf(0.01, df)
    known = stats.ncx2.sf(x, df, shift) if shift else 0.01
    assert power(0.01, df, shift) == pytest.approx(known, rel=1e-5)


def test_a_test_without_bins_finds_nothing() -> None:
    assert power(0.01, 0, 100.0) == 0.0 and chi2_tail(3.0, 0) == 1.0


def test_no_law_so_far_away_is_harder_to_see() -> None:
    draw, least = np.random.default_rng(0), np.inf
    for _ in range(3000):
        move = draw.normal(size=len(LAW))
        move -= move.mean()
        move *= 0.01 / (np.abs(move).sum() / 2)
        least = min(least, float((move**2 / LAW).sum()))
    assert least_shift(LAW, 0.01) <= least <= 1.1 * least_shift(LAW, 0.01)
    assert least_shift(LAW, 0.01) == pytest.approx(4 * 0.01**2)  # 0.5 against all others
    assert least_shift([1.0], 0.01) == 0.0


@pytest.mark.parametrize("take", [0, 1])
def test_the_power_that_is_stated_is_that_of_many_runs(take: int) -> None:
    """The hardest bias is found as often as stated, another one at least as often."""
    bias, num_draws, level, runs = 0.05, 1500, 0.01, 4000
    hard = np.array([0.55, *(p * 0.45 / 0.5 for p in LAW[1:])])
    other = np.array(LAW) + bias * np.array([-1, 0, 0, 1])
    true = [hard, other][take]
    draws = np.random.default_rng(1).multinomial(num_draws, true, size=runs)
    x2 = [pearson(counts.tolist(), LAW) for counts in draws]
    found = np.mean(np.array(x2) > critical_value(level, len(LAW) - 1))
    stated = power(level, len(LAW) - 1, num_draws * least_shift(LAW, bias))
    assert found == pytest.approx(stated, abs=0.03) if take == 0 else found > stated
    sound = np.random.default_rng(2).multinomial(num_draws, LAW, size=runs)
    x2 = [pearson(counts.tolist(), LAW) for counts in sound]
    assert np.mean(np.array(x2) > critical_value(level, len(LAW) - 1)) < 2 * level


def test_what_is_rare_is_judged_by_poisson() -> None:
    assert rare_tail(0, 0.5) == 1.0
    assert rare_tail(4, 0.5) == pytest.approx(stats.poisson.sf(3, 0.5))
    assert rare_tail(1, 0.0) == 0.0


@pytest.mark.parametrize("bias", [0.0, 0.1])
def test_the_interval_of_a_distance_holds_it(bias: float) -> None:
    true = np.array(LAW) + bias * np.array([-1, 0, 1, 0])
    draw, inside = np.random.default_rng(3), 0
    for _ in range(300):
        tables = [(draw.multinomial(n, true).tolist(), LAW) for n in (500, 2000)]
        found, low, high = distance(tables)
        assert low <= found <= high
        inside += low <= bias <= high
    assert inside >= 0.95 * 300
    assert distance([([0, 0, 0, 0], LAW)]) == (0.0, 0.0, 1.0)

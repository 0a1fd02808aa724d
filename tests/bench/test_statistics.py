"""Intervals against closed forms, verdicts and the Pareto set against definitions."""

from __future__ import annotations

import itertools
import math
from statistics import NormalDist

import numpy as np
import pytest

from mtad.bench.statistics import (
    MIN_ITEMS,
    Estimate,
    Floats,
    Resampled,
    farthest_from_end,
    holm,
    judge,
    mean_of,
    pareto,
    ratio,
    resamples,
    sums,
)


def ratio_of_sums(
    num: np.ndarray, den: np.ndarray, weights: np.ndarray, num_items: int
) -> Resampled:
    """The ratio of sums of values by item."""
    return ratio(sums(num, weights), sums(den, weights), num_items)


def mean(values: Floats, weights: Floats) -> Resampled:
    return ratio_of_sums(values, np.ones_like(values), weights, len(values))


def width(estimate: Estimate) -> float:
    assert estimate.low is not None and estimate.high is not None
    return estimate.high - estimate.low


def test_interval_of_a_mean_is_the_normal_one() -> None:
    values = np.random.default_rng(1).normal(5, 2, 400)
    found = mean(values, resamples([400])).estimate()
    assert found.value == pytest.approx(values.mean())
    assert width(found) == pytest.approx(2 * 1.96 * values.std(ddof=1) / 20, rel=0.06)
    assert found.low is not None and found.low < values.mean() < (found.high or 0.0)


def test_interval_of_a_ratio_is_that_of_the_delta_method() -> None:
    random = np.random.default_rng(2)
    den = random.integers(5, 60, 500).astype(float)
    num = 3 * den + random.normal(0, 20, 500)
    found = ratio_of_sums(num, den, resamples([500]), 500).estimate()
    ratio = num.sum() / den.sum()
    error = (num - ratio * den).std(ddof=1) / (den.mean() * math.sqrt(500))
    assert found.value == pytest.approx(ratio)
    assert width(found) == pytest.approx(2 * 1.96 * error, rel=0.06)


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    random, weights = np.random.default_rng(3), resamples([40], num_resamples=500)
    covered = 0
    for _ in range(300):
        size = random.integers(1, 20, 40).astype(float)
        found = ratio_of_sums(size * random.exponential(2, 40), size, weights, 40).estimate()
        covered += (found.low or 0.0) <= 2 <= (found.high or 0.0)
    assert 0.87 <= covered / 300 <= 0.98


def test_a_paired_difference_is_narrower_if_runs_go_together() -> None:
    random, weights = np.random.default_rng(4), resamples([200])
    hardness = random.normal(0, 1, 200)
    one, other = (mean(hardness + random.normal(at, 0.1, 200), weights) for at in (0.1, 0))
    stranger = mean(hardness + random.normal(0, 0.1, 200), resamples([200], seed=7))
    paired, unpaired = one.minus(other).estimate(), one.minus(stranger).estimate()
    assert width(paired) < width(unpaired) / 5
    assert judge(one.minus(other), 0, "higher").verdict == "better"


def test_a_ratio_of_runs_is_divided_within_each_resample() -> None:
    weights = resamples([50])
    seconds = np.random.default_rng(5).uniform(1, 9, 50)
    slow, fast = (ratio_of_sums(np.ones(50), s, weights, 50) for s in (seconds, seconds / 2))
    found = fast.over(slow).estimate()
    assert [found.value, found.low, found.high] == pytest.approx([2, 2, 2])
    assert width(fast.estimate()) > 0.01


def test_every_resample_has_as_many_items_of_each_task() -> None:
    weights = resamples([7, 0, 3])
    assert weights.shape == (2000, 10)
    assert (weights[:, :7].sum(axis=1) == 7).all()
    assert (weights[:, 7:].sum(axis=1) == 3).all()
    assert weights[:, 0].var() == pytest.approx(6 / 7, rel=0.15)


def test_resamples_depend_on_the_seed_alone() -> None:
    assert (resamples([20]) == resamples([20])).all()
    assert (resamples([20]) != resamples([20], seed=1)).any()


def test_nothing_to_divide_by_is_none() -> None:
    none = ratio_of_sums(np.zeros(20), np.zeros(20), resamples([20]), 0)
    assert none.estimate() == Estimate(None)
    assert judge(none.minus(none), 0, "higher").verdict == "–"
    assert none.over(none).estimate().value is None


def test_one_item_or_resamples_without_items_have_no_interval() -> None:
    weights = resamples([30])
    lonely = np.zeros(30)
    lonely[3] = 1.0
    assert ratio_of_sums(lonely, lonely, weights, 1).estimate() == Estimate(1.0, num_items=1)
    lonely[4] = 1.0
    assert ratio_of_sums(lonely, lonely, weights, 2).estimate() == Estimate(1.0, num_items=2)


def flat(value: float, spread: float, num_items: int = 50) -> Resampled:
    return Resampled(np.append(value, np.linspace(value - spread, value + spread, 2000)), num_items)


@pytest.mark.parametrize(
    ("found", "neutral", "better", "verdict"),
    [
        (flat(3.0, 2.0), 0, "higher", "better"),
        (flat(3.0, 2.0), 0, "lower", "worse"),
        (flat(-3.0, 2.0), 0, "higher", "worse"),
        (flat(-3.0, 2.0), 0, "lower", "better"),
        (flat(3.0, 3.2), 0, "higher", "no difference shown"),
        (flat(1.5, 0.3), 1, "higher", "better"),
        (flat(0.5, 0.3), 1, "lower", "better"),
        (flat(0.9, 0.3), 1, "higher", "no difference shown"),
        (flat(0.0, 0.0), 0, "higher", "no difference shown"),
        (flat(3.0, 2.0, MIN_ITEMS - 1), 0, "higher", "too few items"),
        (flat(3.0, 2.0, MIN_ITEMS), 0, "higher", "better"),
        (flat(3.0, 2.0), 0, "", "–"),
    ],
)
def test_verdicts(found: Resampled, neutral: int, better: str, verdict: str) -> None:
    assert judge(found, neutral, better).verdict == verdict  # type: ignore[arg-type]


def test_p_value_is_that_of_the_normal_test() -> None:
    values = np.random.default_rng(6).normal(0.2, 1, 100)
    z = values.mean() / (values.std(ddof=1) / 10)
    found = judge(mean(values, resamples([100])).minus(flat(0.0, 0.0, 100)), 0, "higher")
    assert found.p_value == pytest.approx(2 * NormalDist().cdf(-abs(z)), rel=0.2)
    assert judge(flat(0.0, 0.0), 0, "higher").p_value == 1
    assert judge(flat(1.0, 0.0), 1, "higher").p_value == 1
    assert judge(flat(2.0, 0.5, MIN_ITEMS - 1), 1, "higher").p_value is None


def test_holm_steps_down_and_stops() -> None:
    # sorted: 0.005 ≤ 0.05/4, 0.015 ≤ 0.05/3, 0.03 > 0.05/2
    assert holm([0.015, 0.04, 0.03, 0.005]) == [True, False, False, True]
    assert holm([0.04, None]) == [True, False]
    assert holm([0.03, 0.04]) == [False, False]
    assert holm([]) == []


def test_bound_where_all_scores_are_equal() -> None:
    for num_items in (2, 30, 164):
        assert (1 - farthest_from_end(num_items)) ** num_items == pytest.approx(0.025)


def test_mean_of_tasks_weighs_tasks_alike() -> None:
    weights = resamples([90, 10])
    values = np.random.default_rng(7).normal(0, 1, 100)
    tasks = [mean(values[:90], weights[:, :90]), mean(values[90:], weights[:, 90:])]
    found = mean_of(tasks).estimate()
    assert found.value == pytest.approx((values[:90].mean() + values[90:].mean()) / 2)
    error = math.sqrt(values[:90].var() / 90 + values[90:].var() / 10) / 2
    assert width(found) == pytest.approx(2 * 1.96 * error, rel=0.08)
    assert found.num_items == 100


def test_pareto_set_is_what_nothing_beats() -> None:
    points = {
        "slow and good": [90.0, 1.0],
        "fast and bad": [50.0, 2.0],
        "in between": [70.0, 1.5],
        "beaten": [69.0, 1.5],
        "beaten twice": [50.0, 1.0],
        "unknown": [99.0, None],
        "not a number": [math.nan, 9.0],
    }
    assert pareto(points) == {"slow and good", "fast and bad", "in between"}
    assert pareto({"a": [1.0, 1.0], "twin": [1.0, 1.0]}) == {"a", "twin"}
    assert pareto({}) == set()


def test_pareto_against_its_definition() -> None:
    coordinates = np.random.default_rng(8).integers(0, 6, (40, 3)).astype(float)
    points = {index: list(at) for index, at in enumerate(coordinates)}
    beaten = {
        b
        for a, b in itertools.permutations(points, 2)
        if (coordinates[a] >= coordinates[b]).all() and (coordinates[a] > coordinates[b]).any()
    }
    assert pareto(points) == set(points) - beaten
    assert 0 < len(pareto(points)) < 40

"""What the paper claims, answered from the rows of a pair: a sentence and an interval for each.

A claim holds ("Yes") only where the paired 95 % interval over items is on its side. It is "No"
where that is on the other, and "Not shown" where these items cannot tell.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from mtad.bench.report import Summary
from mtad.bench.report.baselines import Equal, Ladder
from mtad.bench.report.metrics import MEAN_QUALITY, PERPLEXITY, SPEED, Metric
from mtad.bench.report.table import formatted
from mtad.bench.statistics import Comparison, judge

MTAD, MTJD = "mtad", "mtjd"
SAMPLING, GREEDY = "autoregressive", "autoregressive, greedy"
SPECULATIVE, GREEDY_SPECULATIVE = "speculative_sampling", "speculative_sampling, greedy"
_ANSWERS: Final = {"better": "**Yes.**", "worse": "**No.**"}

Claim = tuple[str, str]
"""What is claimed, and what was found."""


def claims(quality: Summary | None, speed: Summary | None) -> list[Claim]:
    """The claims that the rows say something of.

    Args:
        quality: of scored runs; None where there are none.
        speed: of timed runs; None where there are none.
    """
    found: list[Claim] = []
    if quality is not None:
        found += _of_quality(quality)
    if speed is not None:
        found += _of_speed(speed)
    return found


def _of_quality(rows: Summary) -> Iterator[Claim]:
    if MTAD in rows.runs:
        for claim, other in {
            "MTAD is better than sampling": SAMPLING,
            "… than speculative sampling": SPECULATIVE,
            "… than greedy speculative decoding, which is lossless": GREEDY_SPECULATIVE,
        }.items():
            if other in rows.runs:
                yield claim, _difference(rows, MTAD, other)
        equal = Ladder(rows).at(MTAD)
        if isinstance(equal, Equal) and equal.gain is not None:
            gain = judge(equal.gain, 0, "higher")
            points = formatted(gain.estimate, 1, sign="+")
            yield (
                f"… than sampling at the temperature of equal perplexity, which is here "
                f"{formatted(equal.temperature, 2)}",
                f"{_answer(gain)} Mean quality {points} points over that sampling.",
            )
    if MTJD in rows.runs and SAMPLING in rows.runs:
        yield (
            "joint decoding is better: MTJD's blocks against tokens one by one",
            f"{_difference(rows, MTJD, SAMPLING)} {_perplexities(rows, MTJD, SAMPLING)}",
        )


def _of_speed(rows: Summary) -> Iterator[Claim]:
    if MTAD in rows.runs:
        for claim, other in {
            "MTAD is faster than speculative sampling (1.42 times)": SPECULATIVE,
            "… than plain sampling": SAMPLING,
        }.items():
            if other in rows.runs:
                found = rows.compare(MTAD, other, SPEED)
                yield claim, f"{_answer(found)} {_ratio(found)} times its tokens/s, decode only."


def _difference(rows: Summary, run: str, other: str) -> str:
    """The answer, both mean qualities, and their paired difference."""
    found = rows.compare(run, other, MEAN_QUALITY)
    one, two = (_value(rows, name, MEAN_QUALITY) for name in (run, other))
    points = formatted(found.estimate, 1, sign="+")
    return f"{_answer(found)} Mean quality {one} against {two}: {points} points."


def _perplexities(rows: Summary, run: str, other: str) -> str:
    one, two = (_value(rows, name, PERPLEXITY) for name in (run, other))
    return f"Perplexity {one} against {two}."


def _value(rows: Summary, run: str, metric: Metric) -> str:
    return formatted(rows.estimate(run, metric), metric.digits).partition(" ")[0]


def _ratio(found: Comparison) -> str:
    return formatted(found.estimate, 2)


def _answer(found: Comparison) -> str:
    return _ANSWERS.get(found.verdict, "**Not shown.**")

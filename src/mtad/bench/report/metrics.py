"""The figures of a report: what is summed, over what it is divided, and what it is called."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from mtad.bench.report.results import Row
from mtad.bench.sample import Sample
from mtad.bench.statistics import Resampled

Parts: TypeAlias = tuple[float, float] | None
"""What a row adds to numerator and denominator; None for a row that takes no part."""


@dataclass(frozen=True)
class Metric:
    """One figure: a ratio of two sums over rows.

    Attributes:
        name: in files.
        title: in tables.
        unit: "" for plain numbers.
        formula: for the list of definitions.
        parts: what a row adds.
        better: which direction is good, "" for neither.
        compare: how two runs are set against each other.
        digits: decimals in tables.
        is_item_mean: seeds are averaged within the item first, so that all items weigh the same.
        is_log: the figure is the exponential of the ratio.
        needs_drafts: has no meaning for runs that never verify a draft token.
        needs_meter: "unavailable" instead of a dash where no row has it.
    """

    name: str
    title: str
    unit: str
    formula: str
    parts: Callable[[Row], Parts]
    better: Literal["higher", "lower", ""] = ""
    compare: Literal["difference", "ratio"] = "ratio"
    digits: int = 2
    is_item_mean: bool = False
    is_log: bool = False
    needs_drafts: bool = False
    needs_meter: bool = False

    def finish(self, ratio: Resampled) -> Resampled:
        """The figure from the ratio."""
        return ratio.map(np.exp) if self.is_log else ratio


def count(sample: Sample, name: str) -> int:
    """The sum of one of `Stats`' counts over the turns."""
    return sum(int(turn[name]) for turn in sample.stats)


def joules(sample: Sample) -> float | None:
    """Energy of the row, all devices together; None without a meter or for rows not timed."""
    if sample.energy is None or not sample.is_timed:
        return None
    by_device = sample.energy.get("joules") or {}
    return float(sum(by_device.values())) if by_device else None


def _quality(row: Row) -> Parts:
    if row.scored is None or row.scored.score is None:
        return None
    return float(row.scored.score), 1.0


def _perplexity(row: Row) -> Parts:
    sample = row.sample
    return None if sample.nll is None else (float(sample.nll), float(sample.num_output_tokens))


def _repetition(row: Row) -> Parts:
    if row.scored is None:
        return None
    return float(row.scored.num_repeated_4grams), float(row.scored.num_4grams)


def _counts(numerator: Iterable[str], denominator: str) -> Callable[[Row], Parts]:
    names = tuple(numerator)
    return lambda row: (
        float(sum(count(row.sample, name) for name in names)),
        float(count(row.sample, denominator)),
    )


def _speed(seconds: Callable[[Sample], float]) -> Callable[[Row], Parts]:
    def parts(row: Row) -> Parts:
        if not row.sample.is_timed:
            return None
        return float(row.sample.num_output_tokens), float(seconds(row.sample))

    return parts


def _speed_of_request(row: Row) -> Parts:
    if not row.sample.is_timed or not row.sample.decode_s:
        return None
    return row.sample.num_output_tokens / row.sample.decode_s, 1.0


def _energy(denominator: Callable[[Sample], int]) -> Callable[[Row], Parts]:
    def parts(row: Row) -> Parts:
        energy = joules(row.sample)
        return None if energy is None else (energy, float(denominator(row.sample)))

    return parts


def _length(row: Row) -> Parts:
    return float(row.sample.num_output_tokens), 1.0


def _cut_off(row: Row) -> Parts:
    return float("length" in row.sample.finish_reasons), 1.0


QUALITY = Metric(
    "quality",
    "quality",
    "",
    "mean over items of the mean over seeds of the score",
    _quality,
    "higher",
    "difference",
    is_item_mean=True,
)
PERPLEXITY = Metric(
    "perplexity",
    "perplexity",
    "",
    "exp(Σ −log p / Σ tokens), p of the raw target, tokens up to EOS",
    _perplexity,
    "lower",
    digits=3,
    is_log=True,
)
REPETITION = Metric(
    "repetition_rate",
    "repetition rate",
    "",
    "4-grams that occurred before in the same turn / 4-grams",
    _repetition,
    "lower",
    "difference",
    digits=3,
)
ACCEPTANCE_LENGTH = Metric(
    "mean_acceptance_length",
    "mean acceptance length",
    "tokens",
    "1 + A/S, also called block efficiency",
    _counts(("num_spec_steps", "num_accepted_draft_tokens"), "num_spec_steps"),
    "higher",
    needs_drafts=True,
)
ACCEPTANCE_RATE = Metric(
    "draft_acceptance_rate",
    "draft acceptance rate",
    "",
    "A/D",
    _counts(("num_accepted_draft_tokens",), "num_draft_tokens"),
    needs_drafts=True,
)
PATH_RATE = Metric(
    "path_acceptance_rate",
    "path acceptance rate",
    "",
    "A over the longest paths that could have been accepted",
    _counts(("num_accepted_draft_tokens",), "num_spec_tokens"),
    needs_drafts=True,
)
SPEED = Metric(
    "output_tokens_per_second",
    "tokens/s, decode only",
    "tokens/s",
    "Σ output tokens / Σ decode_s over timed rows",
    _speed(lambda sample: sample.decode_s),
    "higher",
    digits=1,
)
END_TO_END_SPEED = Metric(
    "end_to_end_tokens_per_second",
    "tokens/s, end to end",
    "tokens/s",
    "Σ output tokens / Σ (prefill_s + decode_s) over timed rows",
    _speed(lambda sample: sample.prefill_s + sample.decode_s),
    "higher",
    digits=1,
)
WALL_SPEED = Metric(
    "wall_tokens_per_second",
    "tokens/s, wall clock",
    "tokens/s",
    "Σ output tokens / Σ wall_s over timed rows; wall_s is prompt to text, tokenizer included",
    _speed(lambda sample: sample.wall_s),
    "higher",
    digits=1,
)
REQUEST_SPEED = Metric(
    "request_mean_tokens_per_second",
    "tokens/s, decode only, mean of requests",
    "tokens/s",
    "mean over items of the mean over timed rows of output tokens / decode_s",
    _speed_of_request,
    "higher",
    digits=1,
    is_item_mean=True,
)
ENERGY = Metric(
    "energy_per_token_joules",
    "J/token",
    "J",
    "Σ joules / Σ output tokens over timed rows with a meter; gross, idle power included",
    _energy(lambda sample: sample.num_output_tokens),
    "lower",
    needs_meter=True,
)
REQUEST_ENERGY = Metric(
    "energy_per_request_joules",
    "J/request",
    "J",
    "Σ joules / timed rows with a meter",
    _energy(lambda sample: 1),
    "lower",
    needs_meter=True,
)
ACCEPTED_ENERGY = Metric(
    "energy_per_accepted_draft_token_joules",
    "J per accepted draft token",
    "J",
    "Σ joules / Σ A over timed rows with a meter",
    _energy(lambda sample: count(sample, "num_accepted_draft_tokens")),
    "lower",
    needs_meter=True,
)
LENGTH = Metric(
    "output_tokens", "output tokens", "tokens", "Σ output tokens / rows", _length, digits=1
)
CUT_OFF = Metric(
    "share_cut_off",
    "share cut off",
    "",
    "rows of which a turn ended at the token budget / rows",
    _cut_off,
    compare="difference",
)

METRICS = (
    QUALITY,
    PERPLEXITY,
    REPETITION,
    ACCEPTANCE_LENGTH,
    ACCEPTANCE_RATE,
    PATH_RATE,
    SPEED,
    END_TO_END_SPEED,
    WALL_SPEED,
    REQUEST_SPEED,
    ENERGY,
    REQUEST_ENERGY,
    ACCEPTED_ENERGY,
    LENGTH,
    CUT_OFF,
)

"""The metrics of a report: what is summed, what it is divided by, and what it is called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from mtad.bench.report.results import Row
from mtad.bench.sample import Sample
from mtad.engine.stats import Stats

Parts: TypeAlias = tuple[float, float] | None
"""What a row adds to numerator and denominator; None for a row that takes no part."""


@dataclass(frozen=True)
class Metric:
    """A ratio of two sums over rows.

    Attributes:
        name: in files.
        title: in tables.
        formula: for the list of definitions.
        parts: what a row adds.
        better: which direction is good, "" for neither.
        unit: "" for plain numbers.
        compare: how two runs are set against each other.
        digits: decimals in tables.
        is_item_mean: seeds are averaged within the item first, so that an item weighs the same
            however many seeds it has.
        is_log: the metric is the exponential of the ratio.
        needs_drafts: has no meaning for runs that never verify a draft token.
        needs_meter: "unavailable" instead of a dash where no row has it.
    """

    name: str
    title: str
    formula: str
    parts: Callable[[Row], Parts]
    better: Literal["higher", "lower", ""] = ""
    unit: str = ""
    compare: Literal["difference", "ratio"] = "ratio"
    digits: int = 2
    is_item_mean: bool = False
    is_log: bool = False
    needs_drafts: bool = False
    needs_meter: bool = False


def joules(sample: Sample) -> float | None:
    """Energy of the row, all devices together; None without a meter or for rows not timed."""
    if sample.energy is None or not sample.is_timed:
        return None
    by_device = sample.energy.get("joules") or {}
    return float(sum(by_device.values())) if by_device else None


def _quality(row: Row) -> Parts:
    if row.scored is None or row.scored.score is None:
        return None
    weight = float(row.scored.num_ratings)
    return float(row.scored.score) * weight, weight


def _perplexity(row: Row) -> Parts:
    sample = row.sample
    return None if sample.nll is None else (float(sample.nll), float(sample.num_output_tokens))


def _repetition(row: Row) -> Parts:
    if row.scored is None:
        return None
    return float(row.scored.num_repeated_4grams), float(row.scored.num_4grams)


def _speed_of_request(row: Row) -> Parts:
    if not row.sample.is_timed or not row.sample.decode_s:
        return None
    return row.sample.num_output_tokens / row.sample.decode_s, 1.0


def _acceptance(
    name: str, formula: str, parts: Callable[[Stats], tuple[int, int]], **others: Any
) -> Metric:
    """A ratio of counts that only runs with drafts have."""
    title = name.replace("_", " ")
    return Metric(
        name, title, formula, lambda row: parts(row.sample.total_stats), needs_drafts=True, **others
    )


def _speed(name: str, title: str, formula: str, seconds: Callable[[Sample], float]) -> Metric:
    """Output tokens over seconds of timed rows."""

    def parts(row: Row) -> Parts:
        sample = row.sample
        return (float(sample.num_output_tokens), seconds(sample)) if sample.is_timed else None

    return Metric(name, title, formula, parts, "higher", unit="tokens/s", digits=1)


def _energy(name: str, title: str, formula: str, per: Callable[[Sample], int]) -> Metric:
    """Joules over a count of timed rows with a meter."""

    def parts(row: Row) -> Parts:
        energy = joules(row.sample)
        return None if energy is None else (energy, float(per(row.sample)))

    return Metric(name, title, formula, parts, "lower", unit="J", needs_meter=True)


QUALITY = Metric(
    "quality",
    "quality",
    "mean over items of the mean over seeds of the score; of judged turns each weighs the same",
    _quality,
    "higher",
    compare="difference",
    is_item_mean=True,
)
MEAN_QUALITY = Metric(
    "mean_quality",
    "mean quality",
    "mean over tasks of 100 × (score − worst) / (best − worst)",
    lambda row: None,  # no sum over rows: `Summary` makes it from the tasks' qualities
    "higher",
    unit="0 to 100",
    compare="difference",
    digits=1,
)
PERPLEXITY = Metric(
    "perplexity",
    "perplexity",
    "exp(Σ −log p / Σ tokens), p of the raw target, tokens up to EOS",
    _perplexity,
    "lower",
    digits=3,
    is_log=True,
)
LOG_LIKELIHOOD = Metric(
    "log_likelihood",
    "log p of an answer",
    "mean over items of the mean over seeds of Σ log p, p of the raw target, tokens up to EOS",
    lambda row: None if row.sample.nll is None else (-float(row.sample.nll), 1.0),
    "higher",
    compare="difference",
    unit="nats",
    is_item_mean=True,
)
REPETITION = Metric(
    "repetition_rate",
    "repetition rate",
    "4-grams that occurred before in the same turn / 4-grams",
    _repetition,
    "lower",
    compare="difference",
    digits=3,
)
ACCEPTANCE_LENGTH = _acceptance(
    "mean_acceptance_length",
    "1 + A/S, also called block efficiency",
    lambda s: (s.num_block_tokens, s.num_spec_steps),
    better="higher",
    unit="tokens",
)
ACCEPTANCE_RATE = _acceptance(
    "draft_acceptance_rate", "A/D", lambda s: (s.num_accepted_draft_tokens, s.num_draft_tokens)
)
PATH_RATE = _acceptance(
    "path_acceptance_rate",
    "A over the longest paths that could have been accepted",
    lambda s: (s.num_accepted_draft_tokens, s.num_spec_tokens),
)
SPEED = _speed(
    "output_tokens_per_second",
    "tokens/s, decode only",
    "Σ output tokens / Σ decode_s over timed rows",
    lambda sample: sample.decode_s,
)
END_TO_END_SPEED = _speed(
    "end_to_end_tokens_per_second",
    "tokens/s, end to end",
    "Σ output tokens / Σ (prefill_s + decode_s) over timed rows",
    lambda sample: sample.prefill_s + sample.decode_s,
)
WALL_SPEED = _speed(
    "wall_tokens_per_second",
    "tokens/s, wall clock",
    "Σ output tokens / Σ wall_s over timed rows; wall_s is prompt to text, tokenizer included",
    lambda sample: sample.wall_s,
)
REQUEST_SPEED = Metric(
    "request_mean_tokens_per_second",
    "tokens/s, decode only, mean of requests",
    "mean over items of the mean over timed rows of output tokens / decode_s",
    _speed_of_request,
    "higher",
    unit="tokens/s",
    digits=1,
    is_item_mean=True,
)
ENERGY = _energy(
    "energy_per_token_joules",
    "J/token",
    "Σ joules / Σ output tokens over timed rows with a meter; gross, idle power included",
    lambda sample: sample.num_output_tokens,
)
REQUEST_ENERGY = _energy(
    "energy_per_request_joules",
    "J/request",
    "Σ joules / timed rows with a meter",
    lambda sample: 1,
)
ACCEPTED_ENERGY = _energy(
    "energy_per_accepted_draft_token_joules",
    "J per accepted draft token",
    "Σ joules / Σ A over timed rows with a meter",
    lambda sample: sample.total_stats.num_accepted_draft_tokens,
)
LENGTH = Metric(
    "output_tokens",
    "output tokens",
    "Σ output tokens / rows",
    lambda row: (float(row.sample.num_output_tokens), 1.0),
    unit="tokens",
    digits=1,
)
CUT_OFF = Metric(
    "share_cut_off",
    "share cut off",
    "rows of which a turn ended at the token budget / rows",
    lambda row: (float("length" in row.sample.finish_reasons), 1.0),
    compare="difference",
)

METRICS: Final = (
    QUALITY,
    PERPLEXITY,
    LOG_LIKELIHOOD,
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

"""From rows to results: every number is a ratio of sums over prompts, its spread over repeats."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mtad.bench.files import CONDITIONS, read_conditions, read_json
from mtad.bench.speed.cost import PairCost
from mtad.bench.speed.plan import OPTIONS, WITHOUT_DRAFT
from mtad.bench.speed.rows import LIMITS, Key, Measured, Observed, Row, read_speed_rows
from mtad.errors import DataError

PARTS = ("draft", "target", "verify", "overhead")
"""What an iteration is split into; overhead is the commit and all that is in no phase."""

Rate = Callable[[Sequence[Measured]], float | None]
"""A rate of some rows together; None if there is nothing to divide by."""
Turn = tuple[int, int]
"""Repeat and batch: what all runs decode in turn, on the same prompts."""


@dataclass(frozen=True)
class Spread:
    """A number of all repeats, and the least and the largest of single ones."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class RunResult:
    """What a run showed.

    Attributes:
        row: one of its rows, for the names.
        turns: what its rows measured.
        cost: of its pair.
    """

    row: Row
    turns: Mapping[Turn, Measured]
    cost: PairCost

    @property
    def all(self) -> list[Measured]:
        """Of all turns."""
        return list(self.turns.values())

    @property
    def is_ours(self) -> bool:
        """Whether it is a method of mtad."""
        return self.row.method is not None

    @property
    def tokens_per_s(self) -> Spread | None:
        """Tokens per second of the iterations, without the prompt."""
        return self._spread(decode_rate)

    @property
    def end_to_end_tokens_per_s(self) -> Spread | None:
        """Tokens per second of the whole call."""
        return self._spread(end_to_end_rate)

    def _spread(self, rate: Rate) -> Spread | None:
        return spread(self.turns, lambda turns: rate([self.turns[turn] for turn in turns]))

    @property
    def mean_acceptance_length(self) -> float | None:
        """1 + accepted draft tokens per step; None where another engine accepted or counts none."""
        steps = sum(m.num_row_steps for m in self.all)
        accepted = sum(m.num_accepted for m in self.all)
        return 1 + accepted / steps if steps and (self.is_ours or accepted) else None

    @property
    def num_iterations(self) -> int:
        """Of all turns together."""
        return sum(m.num_iterations for m in self.all)

    @property
    def tokens_per_iteration(self) -> float | None:
        """Of all texts together."""
        return over(sum(m.num_decoded for m in self.all), self.num_iterations)

    @property
    def iteration_s(self) -> float | None:
        """Seconds of an iteration, as timed."""
        return over(sum(m.decode_s for m in self.all), self.num_iterations)

    @property
    def token_latency_s(self) -> float | None:
        """Seconds that a text waits for each of its tokens."""
        waited = sum(m.decode_s * m.num_rows for m in self.all)
        return over(waited, sum(m.num_decoded for m in self.all))

    @property
    def _split(self) -> list[Observed]:
        """Of the turns whose phases were observed."""
        return [m.observed for m in self.all if m.observed and m.observed.phases]

    @property
    def parts_s(self) -> dict[str, float]:
        """Seconds of an iteration by part, where its inside was observed."""
        seen = self._split
        steps = sum(o.num_iterations for o in seen)
        if not steps:
            return {}
        parts = {p: sum(o.phases.get(p, 0.0) for o in seen) / steps for p in PARTS[:-1]}
        whole = sum(o.decode_s for o in seen) / steps
        return parts | {PARTS[-1]: max(0.0, whole - sum(parts.values()))}

    @property
    def outside_s(self) -> float | None:
        """Seconds of an iteration outside of the models' forwards."""
        outside = sum(o.decode_s - o.forward_s for o in self._split)
        return over(outside, sum(o.num_iterations for o in self._split))

    @property
    def limit_s(self) -> float | None:
        """The least seconds that an iteration could take."""
        seen = [(m.observed, m.prefix) for m in self.all if m.observed]
        least = sum(self.cost.seconds(o.forwards, prefix) for o, prefix in seen)
        return over(least, sum(o.num_iterations for o, _ in seen))

    @property
    def fraction(self) -> float | None:
        """Of the limit: 1 is as fast as the hardware allows at this acceptance."""
        return over(self.limit_s, self.iteration_s)

    @property
    def limit_tokens_per_s(self) -> float | None:
        """Tokens per second if every iteration took its least time."""
        return over(self.tokens_per_iteration, self.limit_s)

    @property
    def ceiling(self) -> float | None:
        """How much faster than plain decoding it would be if both were at their limits."""
        rows = [m for m in self.all if m.observed]
        plain = sum(self.cost.plain_s(m.num_rows, m.prefix) for m in rows)
        plain_rate = over(sum(m.num_rows for m in rows), plain)
        return over(self.limit_tokens_per_s, plain_rate)

    @property
    def recorded(self) -> float | None:
        """Share of the iterations that were replayed from a recording; None if not known."""
        known = [m for m in self.all if m.iterations is not None]
        eager = sum(m.num_iterations if m.eager_reason else m.num_unsettled for m in known)
        share = over(eager, sum(m.num_iterations for m in known))
        return None if share is None else 1 - share

    @property
    def eager_reasons(self) -> list[str]:
        """Why iterations ran eagerly, each reason once."""
        return list(dict.fromkeys(m.eager_reason for m in self.all if m.eager_reason))

    @property
    def joules_per_token(self) -> float | None:
        """Joules of the whole call per token; None without a meter."""
        known = [m.energy.total_j for m in self.all if m.energy is not None]
        if len(known) < len(self.all):
            return None
        return over(sum(known), sum(m.num_output_tokens for m in self.all))

    @property
    def peak_bytes(self) -> float | None:
        """Weights of the models that take part, and the largest peak of a call; None if unknown."""
        known = [m.memory_bytes for m in self.all if m.memory_bytes is not None]
        seen = {f.model for m in self.all if m.observed for f in m.observed.forwards}
        weights = sum(self.cost.models[name].weight_bytes for name in seen)
        return float(weights + max(known)) if known else None


def decode_rate(rows: Sequence[Measured]) -> float | None:
    """Tokens per second of the iterations."""
    return over(sum(m.num_decoded for m in rows), sum(m.decode_s for m in rows))


def end_to_end_rate(rows: Sequence[Measured]) -> float | None:
    """Tokens per second of the whole calls."""
    return over(sum(m.num_output_tokens for m in rows), sum(m.wall_s for m in rows))


def model_rate(rows: Sequence[Measured]) -> float | None:
    """Tokens per second of what another engine counts within its target; None if it does not."""
    known = [m.forward_s for m in rows if m.forward_s is not None]
    return over(sum(m.num_decoded for m in rows), sum(known)) if len(known) == len(rows) else None


def spread(turns: Iterable[Turn], value: Callable[[Sequence[Turn]], float | None]) -> Spread | None:
    """A value of all turns with its spread over repeats; None if there is nothing to divide by."""
    repeats: dict[int, list[Turn]] = {}
    for turn in turns:
        repeats.setdefault(turn[0], []).append(turn)
    whole = value([turn for group in repeats.values() for turn in group])
    single = [each for group in repeats.values() if (each := value(group)) is not None]
    return None if whole is None else Spread(whole, min(single), max(single))


@dataclass(frozen=True)
class Speed:
    """The rows of a folder and what they rest on.

    Attributes:
        rows: in the order in which they were made.
        costs: by name of the pair.
        conditions: the lines of conditions.jsonl.
    """

    rows: Sequence[Row]
    costs: Mapping[str, PairCost]
    conditions: Sequence[Mapping[str, Any]]

    def results(self, axis: str) -> list[RunResult]:
        """The runs of an experiment at each of its values, in their first order."""
        return [self._result(key) for key in self._by_key if key[0] == axis]

    @property
    def main(self) -> dict[str, RunResult]:
        """The runs of the main comparison by label."""
        return {result.row.run: result for result in self.results("")}

    @cached_property
    def _by_key(self) -> dict[Key, list[Row]]:
        found: dict[Key, list[Row]] = {}
        for row in self.rows:
            found.setdefault(row.key, []).append(row)
        return found

    def _result(self, key: Key) -> RunResult:
        rows = self._by_key[key]
        turns = {(r.repeat, r.batch): r.measured for r in rows if r.measured is not None}
        return RunResult(rows[0], turns, self.costs[rows[0].pair])

    def ratio(
        self,
        result: RunResult,
        reference: str,
        rate: Rate = end_to_end_rate,
        their_rate: Rate | None = None,
    ) -> Spread | None:
        """How many times as fast a run is as another one, on the turns that both have.

        Along the axis of an option that the reference does not have, it has a single value.

        Args:
            result: the run.
            reference: label of the other one.
            rate: of both.
            their_rate: of the other one, if another.
        """
        row = result.row
        key = row.axis, WITHOUT_DRAFT if row.axis in OPTIONS else row.at, row.pair, reference
        if key not in self._by_key:
            return None
        sides = result.turns, self._result(key).turns
        rates = rate, their_rate or rate

        def divided(turns: Sequence[Turn]) -> float | None:
            pairs = zip(rates, sides, strict=True)
            return over(*(one([side[turn] for turn in turns]) for one, side in pairs))

        return spread([turn for turn in sides[0] if turn in sides[1]], divided)

    @property
    def errors(self) -> list[str]:
        """Why rows measured nothing, each reason once."""
        texts = [f"{r.axis} {r.at} {r.run}: {r.error}".strip() for r in self.rows if r.error]
        return list(dict.fromkeys(texts))


def read_speed(folder: Path) -> Speed:
    """What a folder holds.

    Raises:
        DataError: a file is missing or damaged.
    """
    rows = read_speed_rows(folder)
    costs = {name: PairCost.of(row) for name, row in read_json(folder / LIMITS).items()}
    if missing := sorted({row.pair for row in rows} - costs.keys()):
        raise DataError(f"{folder / LIMITS} has nothing of the pair {missing[0]!r}")
    known = list(read_conditions(folder).values()) if (folder / CONDITIONS).exists() else []
    return Speed(rows, costs, known)


def over(part: int | float | None, whole: int | float | None) -> float | None:
    """A ratio; None if a part is unknown or there is nothing to divide by."""
    return None if part is None or not whole else part / whole

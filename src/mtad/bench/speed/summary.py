"""From rows to results: every number is a ratio of sums over prompts, its spread over repeats."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtad.bench.files import CONDITIONS, read_conditions, read_json
from mtad.bench.speed.cost import PairCost
from mtad.bench.speed.plan import OPTIONS, WITHOUT_DRAFT
from mtad.bench.speed.rows import LIMITS, Measured, Row, read_speed_rows
from mtad.errors import DataError

PARTS = ("draft", "target", "verify", "overhead")
"""What an iteration is split into; overhead is the commit and all that is in no phase."""

Rate = Callable[[Iterable[Measured]], float | None]
"""A rate of some rows together; None if there is nothing to divide by."""
Key = tuple[str, int | str, str, str]
"""Axis, value there, pair and run."""


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
        measured: what its rows measured, by repeat.
        cost: of its pair.
    """

    row: Row
    measured: Mapping[int, Sequence[Measured]]
    cost: PairCost

    @property
    def all(self) -> list[Measured]:
        """Of all repeats."""
        return [m for rows in self.measured.values() for m in rows]

    @property
    def is_ours(self) -> bool:
        """Whether it is a method of mtad."""
        return self.row.method is not None

    @property
    def tokens_per_s(self) -> Spread | None:
        """Tokens per second of the iterations, without the prompt."""
        return spread(self.measured, decode_rate)

    @property
    def end_to_end_tokens_per_s(self) -> Spread | None:
        """Tokens per second of the whole call."""
        return spread(self.measured, end_to_end_rate)

    @property
    def mean_acceptance_length(self) -> float | None:
        """1 + accepted draft tokens per step; None for transformers, which does not count."""
        steps = _sum(self.all, lambda m: m.num_row_steps)
        accepted = _sum(self.all, lambda m: m.num_accepted)
        return 1 + accepted / steps if self.is_ours and steps else None

    @property
    def tokens_per_iteration(self) -> float | None:
        """Of all texts together."""
        return over(
            _sum(self.all, lambda m: m.num_decoded), _sum(self.all, lambda m: m.num_iterations)
        )

    @property
    def iteration_s(self) -> float | None:
        """Seconds of an iteration, as timed."""
        return over(
            _sum(self.all, lambda m: m.decode_s), _sum(self.all, lambda m: m.num_iterations)
        )

    @property
    def token_latency_s(self) -> float | None:
        """Seconds that a text waits for each of its tokens."""
        waited = _sum(self.all, lambda m: m.decode_s * m.num_rows)
        return over(waited, _sum(self.all, lambda m: m.num_decoded))

    @property
    def parts_s(self) -> dict[str, float]:
        """Seconds of an iteration by part, where its inside was observed."""
        seen = [m.observed for m in self.all if m.observed and m.observed.phases]
        steps = sum(o.num_iterations for o in seen)
        if not steps:
            return {}
        parts = {p: sum(o.phases.get(p, 0.0) for o in seen) / steps for p in PARTS[:-1]}
        whole = sum(o.decode_s for o in seen) / steps
        return parts | {PARTS[-1]: max(0.0, whole - sum(parts.values()))}

    @property
    def outside_s(self) -> float | None:
        """Seconds of an iteration outside of the models' forwards."""
        seen = [m.observed for m in self.all if m.observed and m.observed.phases]
        outside = sum(o.decode_s - o.forward_s for o in seen)
        return over(outside, sum(o.num_iterations for o in seen))

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
        steps = _sum(known, lambda m: m.num_iterations)
        eager = _sum(known, lambda m: m.num_iterations if m.eager_reason else m.num_unsettled)
        return None if not steps else 1 - eager / steps

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
        return over(sum(known), _sum(self.all, lambda m: m.num_output_tokens))

    @property
    def memory_bytes(self) -> int | None:
        """The largest peak of its calls beyond what was in use before; None if unknown."""
        known = [m.memory_bytes for m in self.all if m.memory_bytes is not None]
        return max(known, default=None)


def decode_rate(rows: Iterable[Measured]) -> float | None:
    """Tokens per second of the iterations."""
    rows = list(rows)
    return over(_sum(rows, lambda m: m.num_decoded), _sum(rows, lambda m: m.decode_s))


def end_to_end_rate(rows: Iterable[Measured]) -> float | None:
    """Tokens per second of the whole calls."""
    rows = list(rows)
    return over(_sum(rows, lambda m: m.num_output_tokens), _sum(rows, lambda m: m.wall_s))


def spread(measured: Mapping[int, Sequence[Measured]], rate: Rate) -> Spread | None:
    """A rate of all rows with its spread over repeats; None if there is nothing to divide by."""
    whole = rate([m for rows in measured.values() for m in rows])
    single = [value for rows in measured.values() if (value := rate(rows)) is not None]
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
        keys = dict.fromkeys(_key(row) for row in self.rows if row.axis == axis)
        return [self._result(key) for key in keys]

    @property
    def main(self) -> dict[str, RunResult]:
        """The runs of the main comparison by label."""
        return {f.row.run: f for f in self.results("")}

    def _result(self, key: Key) -> RunResult:
        rows = [row for row in self.rows if _key(row) == key]
        measured: dict[int, list[Measured]] = {}
        for row in rows:
            if row.measured is not None:
                measured.setdefault(row.repeat, []).append(row.measured)
        return RunResult(rows[0], measured, self.costs[rows[0].pair])

    def ratio(
        self,
        run: Key,
        reference: Key,
        rate: Rate = end_to_end_rate,
    ) -> Spread | None:
        """How many times as fast a run is as another one, on the turns that both have."""
        ours, theirs = self._turns(run), self._turns(reference)
        common = [turn for turn in ours if turn in theirs]

        def divided(turns: Sequence[tuple[int, int]]) -> float | None:
            rates = [rate([side[turn] for turn in turns]) for side in (ours, theirs)]
            return over(*rates)

        whole = divided(common)
        repeats = dict.fromkeys(repeat for repeat, _ in common)
        single = [divided([t for t in common if t[0] == repeat]) for repeat in repeats]
        known = [value for value in single if value is not None]
        return None if whole is None else Spread(whole, min(known), max(known))

    def _turns(self, key: Key) -> dict[tuple[int, int], Measured]:
        found = [row for row in self.rows if _key(row) == key and row.measured is not None]
        return {(r.repeat, r.batch): r.measured for r in found if r.measured is not None}

    @property
    def errors(self) -> list[str]:
        """Why rows measured nothing, each reason once."""
        texts = [f"{r.axis} {r.at} {r.run}: {r.error}".strip() for r in self.rows if r.error]
        return list(dict.fromkeys(texts))


def _key(row: Row) -> Key:
    return row.axis, row.at, row.pair, row.run


def key_of(result: RunResult) -> Key:
    """Where the rows of this result are."""
    return _key(result.row)


def beside(result: RunResult, run: str) -> Key:
    """Where the rows of another run are that this result is compared with."""
    row = result.row
    return row.axis, WITHOUT_DRAFT if row.axis in OPTIONS else row.at, row.pair, run


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


def _sum(rows: Iterable[Measured], value: Callable[[Measured], int | float]) -> float:
    return float(sum(map(value, rows)))

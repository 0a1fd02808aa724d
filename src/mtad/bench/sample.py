"""One row of samples.jsonl: the answer of a run to an item, with its times and energy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any, TypeAlias, TypeVar

from mtad.engine.stats import Stats, total
from mtad.errors import DataError

SCHEMA_VERSION = 1

Key: TypeAlias = tuple[str, str, str, str, int]
"""Stage, task, item, run and seed: a row occurs once."""


@dataclass(frozen=True)
class Sample:
    """One prompt, one method with its options, one seed.

    Seconds and joules of a batch are shared evenly among its rows.

    Attributes:
        stage: "dev" for choosing options, "test" for reporting.
        task, item: the question.
        run: the label of the run; on the dev stage one per point of its grid.
        seed: the number of the sample, from 0.
        method: `name`, `options` and whether it is `lossless` as set; see `describe`.
        sampling: the sampling options, budget included.
        models: "pair", or "draft" where the draft answers alone.
        answers: the text of each turn.
        token_ids: the new tokens of each turn.
        finish_reasons: "stop" or "length", for each turn.
        num_prompt_tokens: of each turn.
        stats: counts and seconds of each turn, named as in `Stats`; seconds are not shared here.
        nll: sum of −log p of the tokens under the raw target, None if it was not measured.
        batch_size: prompts decoded together.
        is_timed: whether the times count in comparisons; warm-up is never written.
        prefill_s, decode_s, wall_s: prefill; iterations; all of it, with the tokenizer.
        energy: `Energy` as a dictionary; None where unavailable or the window was too short.
        phases_s: seconds of draft, target, verify and commit; None if they were not measured.
        phases_j: joules of the same, where the counters are fast enough for them.
        conditions: the id of the line in conditions.jsonl.
        schema_version: raised when a field changes its meaning.
    """

    stage: str
    task: str
    item: str
    run: str
    seed: int
    method: Mapping[str, Any]
    sampling: Mapping[str, Any]
    models: str
    answers: Sequence[str]
    token_ids: Sequence[Sequence[int]]
    finish_reasons: Sequence[str]
    num_prompt_tokens: Sequence[int]
    stats: Sequence[Mapping[str, Any]]
    nll: float | None
    batch_size: int
    is_timed: bool
    prefill_s: float
    decode_s: float
    wall_s: float
    energy: Mapping[str, Any] | None
    phases_s: Mapping[str, float] | None
    phases_j: Mapping[str, float] | None
    conditions: str
    schema_version: int = SCHEMA_VERSION

    @property
    def key(self) -> Key:
        """The key that occurs once in a file."""
        return (self.stage, self.task, self.item, self.run, self.seed)

    @property
    def num_output_tokens(self) -> int:
        """New tokens of all turns."""
        return sum(map(len, self.token_ids))

    @cached_property
    def total_stats(self) -> Stats:
        """The counts and seconds of all turns together."""
        return total(map(Stats.of, self.stats))

    def as_dict(self) -> dict[str, Any]:
        """The row for JSON; what was measured is rounded to seven places."""
        row = asdict(self)
        return row | {name: _rounded(row[name]) for name in _MEASURED}

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Sample:
        """The sample of a JSON row.

        Raises:
            ValueError: fields are missing or unknown, or it is of another schema version.
        """
        _require_fields(cls, row)
        return cls(**row)


@dataclass(frozen=True)
class Scored:
    """One row of scores.jsonl: the score of a sample.

    Attributes:
        stage, task, item, run, seed: the sample.
        score: on the task's scale, None where it could not be judged.
        detail: what led to the score.
        num_4grams, num_repeated_4grams: of the tokens of all turns; a 4-gram is repeated if it
            occurred earlier in the same turn.
        schema_version: raised when a field changes its meaning.
    """

    stage: str
    task: str
    item: str
    run: str
    seed: int
    score: float | None
    detail: Mapping[str, Any]
    num_4grams: int
    num_repeated_4grams: int
    schema_version: int = SCHEMA_VERSION

    @property
    def key(self) -> Key:
        """The sample's key."""
        return (self.stage, self.task, self.item, self.run, self.seed)

    @property
    def num_ratings(self) -> int:
        """How many numbers the score is the mean of: its weight in means over items."""
        ratings = self.detail.get("ratings", (self.score,))
        return sum(rating is not None for rating in ratings)

    def as_dict(self) -> dict[str, Any]:
        """The row for JSON."""
        return asdict(self)

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Scored:
        """The scored sample of a JSON row; errors as for `Sample.of`."""
        _require_fields(cls, row)
        return cls(**row)


Keyed = TypeVar("Keyed", Sample, Scored)


def by_key(rows: Iterable[Keyed], place: object) -> dict[Key, Keyed]:
    """The rows by their keys.

    Args:
        rows: of one kind.
        place: where they are from, for the message.

    Raises:
        DataError: a row occurs twice.
    """
    found: dict[Key, Keyed] = {}
    for row in rows:
        if row.key in found:
            raise DataError(f"{place}: the row {row.key} occurs twice; delete one of them")
        found[row.key] = row
    return found


def _require_fields(cls: type[Sample | Scored], row: Mapping[str, Any]) -> None:
    version = row.get("schema_version")
    if version != SCHEMA_VERSION:
        raise ValueError(f"schema version {version!r}; this mtad reads {SCHEMA_VERSION}")
    if wrong := _NAMES[cls] ^ row.keys():
        raise ValueError(f"fields missing or unknown: {', '.join(sorted(wrong))}")


_NAMES = {cls: frozenset(field.name for field in fields(cls)) for cls in (Sample, Scored)}
_MEASURED = ("stats", "nll", "prefill_s", "decode_s", "wall_s", "energy", "phases_s", "phases_j")


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 7)
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    return [_rounded(part) for part in value] if isinstance(value, list) else value

"""The rows of speed.jsonl: one per run, batch of prompts and repeat, with all that results need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from mtad.bench.speed.cost import Forwards
from mtad.errors import DataError
from mtad.jsonl import read_lines
from mtad.measure.energy import Energy

ROWS, LIMITS, PLAN = "speed.jsonl", "limits.json", "plan.json"
Key = tuple[str, int | str, str, str]
"""Axis, value there, pair and run."""


@dataclass(frozen=True)
class Observed:
    """What was seen inside of a decoding.

    Attributes:
        decode_s: seconds of the iterations that were looked at; of the timed ones on a CPU, of
            others where looking costs speed.
        num_iterations: how many.
        phases: seconds by phase.
        forward_s: seconds within the models.
        forwards: by shape.
    """

    decode_s: float
    num_iterations: int
    phases: Mapping[str, float]
    forward_s: float
    forwards: tuple[Forwards, ...]

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Observed:
        """The value of a JSON object."""
        return cls(**dict(row) | {"forwards": tuple(map(Forwards.of, row["forwards"]))})


@dataclass(frozen=True)
class Measured:
    """One decoding of a batch of prompts.

    Attributes:
        num_rows: prompts.
        num_prompt_tokens: of all prompts.
        num_output_tokens: of all texts.
        num_iterations: of the batch; 0 where they are not known.
        num_row_steps: iterations that a text took part in, added up over the texts.
        num_accepted: accepted draft tokens, less one for every step of a row without a token.
        prefill_s, decode_s: seconds; of transformers, prefill is a `generate` of one token.
        num_decoded: tokens that `decode_s` was needed for.
        wall_s: seconds of the whole call.
        observed: None where nothing was looked at.
        forward_s: seconds of `decode_s` that another engine counts within its target, by its own
            clock; None where it does not say.
        texts: the new tokens of each text, of greedy decoding; empty where it is not.
        energy: of the call; None without a meter.
        memory_bytes: by which the call's peak exceeded what was in use before; None if unknown.
        iterations: "recorded" or "eager"; None where nothing is known of that.
        eager_reason: why they are eager.
        num_unsettled: iterations in which something was still recorded or tried, on a CPU.
    """

    num_rows: int
    num_prompt_tokens: int
    num_output_tokens: int
    num_iterations: int
    num_row_steps: int
    num_accepted: int
    prefill_s: float
    decode_s: float
    num_decoded: int
    wall_s: float
    observed: Observed | None = None
    forward_s: float | None = None
    texts: Sequence[Sequence[int]] = field(default_factory=list)
    energy: Energy | None = None
    memory_bytes: int | None = None
    iterations: str | None = None
    eager_reason: str = ""
    num_unsettled: int = 0

    @property
    def prefix(self) -> float:
        """Mean number of tokens that an iteration finds committed, per text."""
        return (self.num_prompt_tokens + self.num_output_tokens / 2) / self.num_rows


@dataclass(frozen=True)
class Row:
    """A line of speed.jsonl.

    Attributes:
        axis: what the experiment varies; "" for the main comparison.
        at: the value there.
        pair: name of the models; their cost is in limits.json.
        run: label of the way to decode.
        method: name and options; None for other engines.
        batch: index of the prompts.
        repeat: how often the prompts had been decoded before.
        seed: of the first text; the others' follow.
        measured: None if it could not be decoded.
        error: why not.
        conditions: id of the line in conditions.jsonl.
    """

    axis: str
    at: int | str
    pair: str
    run: str
    method: Mapping[str, Any] | None
    batch: int
    repeat: int
    seed: int
    measured: Measured | None
    error: str = ""
    conditions: str = field(default="", compare=False)

    @property
    def key(self) -> Key:
        """What the rows of one run at one value have in common."""
        return self.axis, self.at, self.pair, self.run

    def as_dict(self) -> dict[str, Any]:
        """The row for JSON."""
        return asdict(self)

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Row:
        """The row of a JSON object."""
        measured = row["measured"]
        if measured is not None:
            kinds = {"observed": Observed.of, "energy": Energy.of}
            known = {n: make(measured[n]) for n, make in kinds.items() if measured[n] is not None}
            measured = Measured(**measured | known)
        return cls(**dict(row) | {"measured": measured})


def read_speed_rows(folder: Path) -> list[Row]:
    """The rows of a folder.

    Raises:
        DataError: there are none, or one is damaged.
    """
    found = []
    for row, place in read_lines(folder / ROWS):
        try:
            found.append(Row.of(row))
        except (TypeError, KeyError) as error:
            names = ", ".join(f.name for f in fields(Row))
            raise DataError(
                f"{place} is no row of this program: {error}; it has {names}"
            ) from error
    if not found:
        raise DataError(f"{folder / ROWS} has no rows; run mtad bench speed --output {folder}")
    return found

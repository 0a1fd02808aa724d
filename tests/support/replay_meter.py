"""Readings of energy counters in a file, JSON lines: written while measuring, and read again."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mtad.errors import DataError
from mtad.measure.energy import Counters, Reading


@dataclass(frozen=True)
class Recording:
    """Counters whose readings are written down as they are read.

    Attributes:
        counters: the counters to read.
        path: the file, begun anew.
    """

    counters: Counters
    path: Path

    def __post_init__(self) -> None:
        """Write what a replay has to know about the counters."""
        c = self.counters
        head = {"source": c.source, "interval_s": c.interval_s, "ranges": dict(c.ranges)}
        self.path.write_text(json.dumps(head) + "\n", encoding="utf-8")

    @property
    def source(self) -> str:
        """As the counters'."""
        return self.counters.source

    @property
    def interval_s(self) -> float:
        """As the counters'."""
        return self.counters.interval_s

    @property
    def ranges(self) -> Mapping[str, int]:
        """As the counters'."""
        return self.counters.ranges

    def read(self) -> Reading:
        """What the counters show now, which is in the file then."""
        reading = self.counters.read()
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(reading)) + "\n")
        return reading


@dataclass(frozen=True)
class Replay:
    """Recorded counters: each reading is the next line of the file, with the time it was made at.

    Attributes:
        readings: those still to come.
    """

    readings: Iterator[Reading]
    source: str
    interval_s: float
    ranges: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, path: Path) -> Replay:
        """The recording in a file.

        Raises:
            DataError: it is missing or damaged.
        """
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeError) as error:
            raise DataError(f"the recording {path} cannot be read: {error}") from error
        head, *rows = [_record(path, number, line) for number, line in enumerate(lines, 1)] or [{}]
        if set(head) != {"source", "interval_s", "ranges"}:
            raise DataError(f"{path} is no recording: its first line does not name the counters")
        readings = [_reading(path, number, row) for number, row in enumerate(rows, 2)]
        return cls(
            iter(readings), f"{head['source']} (recorded)", head["interval_s"], head["ranges"]
        )

    def read(self) -> Reading:
        """The next reading of the recording."""
        ended = Reading(math.nan, {}, "the recording has no more readings")
        return next(self.readings, ended)


def _record(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    if not isinstance(record, dict):
        raise DataError(f"{path}, line {number} is not a JSON object; is it cut off?")
    return record


def _reading(path: Path, number: int, row: dict[str, Any]) -> Reading:
    values = row.get("microjoules")
    known = isinstance(values, dict) and all(type(v) is int for v in values.values())
    if set(row) != {"time_s", "microjoules", "problem"} or not known:
        raise DataError(
            f"{path}, line {number} is no reading; it needs time_s, microjoules (integers by "
            "device) and problem"
        )
    return Reading(float(row["time_s"]), row["microjoules"], str(row["problem"]))

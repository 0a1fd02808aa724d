"""Energy with its unit, readings of counters, and the reason where there is no value.

Knows no hardware and no file format.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable


@dataclass(frozen=True)
class Energy:
    """Energy that the hardware used in a window: gross, so idle power is included.

    Attributes:
        joules: by device: "cpu:package-0", "cpu:package-0:dram", "cuda:0".
        wall_s: length of the window in seconds.
        source: where the counters come from.
        interval_s: how often the slowest counter advances. A counter may lag by this much at both
            ends of the window, so that joules are uncertain by about power times interval.
        includes_idle: whether the joules hold what the idle hardware would have used too.
    """

    joules: Mapping[str, float]
    wall_s: float
    source: str
    interval_s: float
    includes_idle: bool = True

    @property
    def total_j(self) -> float:
        """Joules of all devices."""
        return sum(self.joules.values())

    @property
    def power_w(self) -> dict[str, float]:
        """Mean power by device, in watts."""
        return {device: joules / self.wall_s for device, joules in self.joules.items()}

    @property
    def average_power_w(self) -> float:
        """Mean power of all devices, in watts."""
        return self.total_j / self.wall_s

    def shared_by(self, count: int) -> Energy:
        """The part of one of `count` rows that were decoded together; the power is the same."""
        parts = {device: joules / count for device, joules in self.joules.items()}
        return Energy(parts, self.wall_s / count, self.source, self.interval_s, self.includes_idle)

    def as_dict(self) -> dict[str, Any]:
        """The energy for JSON."""
        return asdict(self)

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Energy:
        """The energy of a JSON row."""
        return cls(**row)


@dataclass(frozen=True)
class NoEnergy:
    """The reason why there is no value, which is then neither 0 nor an estimate.

    Attributes:
        reason: what is missing, and what to do where possible.
    """

    reason: str


def total(parts: Iterable[Energy | NoEnergy]) -> Energy | NoEnergy:
    """The sum over windows; no value if one of them has none or was measured otherwise."""
    known: list[Energy] = []
    for part in parts:
        if isinstance(part, NoEnergy):
            return part
        known.append(part)
    if not known:
        return NoEnergy("there is no window to sum")
    kinds = {(e.source, e.interval_s, e.includes_idle, frozenset(e.joules)) for e in known}
    if len(kinds) > 1:
        return NoEnergy("the windows were measured with different counters")
    first = known[0]
    joules = {device: sum(e.joules[device] for e in known) for device in first.joules}
    wall_s = sum(e.wall_s for e in known)
    return Energy(joules, wall_s, first.source, first.interval_s, first.includes_idle)


@dataclass(frozen=True)
class Reading:
    """What the counters showed at one moment.

    Attributes:
        time_s: of a clock that never goes back; its zero means nothing.
        microjoules: by device.
        problem: why it could not be read; empty if it could.
    """

    time_s: float
    microjoules: Mapping[str, int]
    problem: str = ""


@runtime_checkable
class Counters(Protocol):
    """Hardware, or a recording of it, whose energy counters can be read."""

    @property
    def source(self) -> str:
        """Its usual name."""

    @property
    def interval_s(self) -> float:
        """Seconds between two advances of the slowest counter."""

    @property
    def ranges(self) -> Mapping[str, int]:
        """Microjoules after which a counter begins anew, by device; none for those that do not."""

    def read(self) -> Reading:
        """What the counters show now; hardware errors are in `problem` and never raised."""

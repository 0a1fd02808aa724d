"""Measures the joules between two readings of the energy counters, or says why there are none.

meter = find_meter([torch.device("cuda:0")])
begun = meter.start()
...
energy = meter.stop(begun)
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch

from mtad.measure.device import synchronize
from mtad.measure.energy import Counters, Energy, NoEnergy, Reading
from mtad.measure.nvml import find_nvml
from mtad.measure.rapl import POWERCAP, find_rapl

__all__ = ["Energy", "Meter", "NoEnergy", "Reading", "find_meter", "idle_power_w"]

MIN_INTERVALS = 2
"""A window is as long as this many updates of its counter, or has no value. Of shorter ones some
hold no update; leaving those out alone would make the mean of the others too large."""
MAX_POWER_W = 1000.0
"""More than a processor package draws. A counter with a range may have begun anew twice, unseen, in
a window in which this power could have filled it."""


@dataclass(frozen=True)
class Meter:
    """Measures windows on one set of counters.

    Attributes:
        counters: None where there are none.
        reason: why there are no counters, or which hardware they leave out.
        devices: CUDA devices whose work has to be finished before a counter is read.
    """

    counters: Counters | None
    reason: str = ""
    devices: tuple[torch.device, ...] = ()

    @property
    def source(self) -> str:
        """Where the joules come from; "unavailable" if nowhere."""
        return "unavailable" if self.counters is None else self.counters.source

    @property
    def interval_s(self) -> float | None:
        """Seconds between two advances of the slowest counter; None without counters."""
        return None if self.counters is None else self.counters.interval_s

    def start(self) -> Reading:
        """Begin a window: a reading once the devices have finished their work."""
        synchronize(*self.devices)
        if self.counters is None:
            return Reading(time.perf_counter(), {}, self.reason)
        return self.counters.read()

    def stop(self, begun: Reading) -> Energy | None:
        """The energy since `begun`; None where there is none, and `between` says why."""
        energy = self.between(begun, self.start())
        return None if isinstance(energy, NoEnergy) else energy

    def between(self, *readings: Reading) -> Energy | NoEnergy:
        """The energy from the first reading to the last.

        Readings in between help counters with a small range, which may begin anew more than once
        in a long window.
        """
        if self.counters is None:
            return NoEnergy(self.reason)
        joules = dict.fromkeys(readings[0].microjoules, 0.0)
        for before, after in pairwise(readings):
            used = joules_between(before, after, self.counters.ranges)
            if isinstance(used, NoEnergy):
                return used
            joules = {device: joules[device] + used[device] for device in joules}
        wall_s = readings[-1].time_s - readings[0].time_s
        return self.energy(joules, wall_s)

    def energy(self, joules: Mapping[str, float], wall_s: float) -> Energy | NoEnergy:
        """The energy of one or more windows of `wall_s` in all; none if a counter stood still."""
        if self.counters is None:
            return NoEnergy(self.reason)
        least_s = MIN_INTERVALS * self.counters.interval_s
        if wall_s < least_s:
            return NoEnergy(f"window too short: {wall_s:.3g} s; it must be {least_s:.3g} s or more")
        if still := [device for device, used in joules.items() if used <= 0]:
            return NoEnergy(
                f"window too short: the counter of {', '.join(still)} did not advance in "
                f"{wall_s:.3g} s; it does so about every {self.counters.interval_s:.3g} s"
            )
        return Energy(joules, wall_s, self.counters.source, self.counters.interval_s)


def joules_between(
    before: Reading, after: Reading, ranges: Mapping[str, int]
) -> dict[str, float] | NoEnergy:
    """Joules by device between two readings, 0.0 where a counter did not advance."""
    if problem := before.problem or after.problem:
        return NoEnergy(problem)
    if set(before.microjoules) != set(after.microjoules) or not after.microjoules:
        return NoEnergy("the two readings are of different counters")
    wall_s, joules = after.time_s - before.time_s, dict[str, float]()
    if wall_s <= 0:
        return NoEnergy(f"window too short: {wall_s:.3g} s")
    for device, count in after.microjoules.items():
        used, whole = count - before.microjoules[device], ranges.get(device)
        if used < 0 and (whole is None or used + whole < 0):
            return NoEnergy(f"the counter of {device} went backwards; was it reset?")
        used += whole if used < 0 and whole is not None else 0
        if whole is not None and used + whole <= MAX_POWER_W * wall_s * 1e6:
            return NoEnergy(
                f"window too long: in {wall_s:.0f} s the counter of {device} may have begun anew "
                f"more than once; read it every {whole / MAX_POWER_W / 1e6:.0f} s"
            )
        joules[device] = used / 1e6
    return joules


def find_meter(devices: Sequence[torch.device], sysfs: Path = POWERCAP) -> Meter:
    """The meter of the devices in use: their GPUs' counters, and the processor's where readable.

    Without counters of the GPUs in use there is no meter: the processor's joules alone would not be
    those of the decoding.

    Args:
        devices: where the models are.
        sysfs: Linux' folder of powercap files.
    """
    if other := sorted({d.type for d in devices} - {"cpu", "cuda"}):
        return Meter(None, f"there is no energy counter for devices of type {other[0]}")
    gpus = tuple(d for d in dict.fromkeys(devices) if d.type == "cuda")
    processor = find_rapl(sysfs)
    if not gpus:
        return _of(processor)
    graphics = find_nvml(gpus)
    if isinstance(graphics, NoEnergy):
        return Meter(None, graphics.reason, gpus)
    if isinstance(processor, NoEnergy):
        return Meter(graphics, f"without the processor's energy: {processor.reason}", gpus)
    return Meter(Together((graphics, processor)), "", gpus)


def _of(found: Counters | NoEnergy) -> Meter:
    return Meter(None, found.reason) if isinstance(found, NoEnergy) else Meter(found)


@dataclass(frozen=True)
class Together:
    """Several sets of counters as one; their devices are kept apart by name.

    Attributes:
        parts: the sets.
    """

    parts: tuple[Counters, ...]

    @property
    def source(self) -> str:
        """The names of all."""
        return " + ".join(part.source for part in self.parts)

    @property
    def interval_s(self) -> float:
        """Of the slowest."""
        return max(part.interval_s for part in self.parts)

    @property
    def ranges(self) -> dict[str, int]:
        """Of all."""
        return {device: value for part in self.parts for device, value in part.ranges.items()}

    def read(self) -> Reading:
        """What all counters show now."""
        found = [part.read() for part in self.parts]
        values = {device: value for r in found for device, value in r.microjoules.items()}
        problem = "; ".join(r.problem for r in found if r.problem)
        return Reading(found[-1].time_s, values, problem)


def idle_power_w(meter: Meter, seconds: float) -> dict[str, float] | None:
    """Watts by device while the hardware idles; takes `seconds` if there is a meter.

    None where there is none, or where the time is too short for the counters.
    """
    if meter.counters is None:
        return None
    begun = meter.start()
    time.sleep(seconds)
    energy = meter.stop(begun)
    return None if energy is None else energy.power_w

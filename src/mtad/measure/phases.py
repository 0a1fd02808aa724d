"""Seconds of each phase of the iterations, and joules where the counters are fast enough.

Knows no models; `PhaseClock` is what `ModelPair.generate` takes as `on_phase`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from functools import partial

import torch

from mtad.measure.device import synchronize
from mtad.measure.energy import Energy, NoEnergy, Reading
from mtad.measure.meter import Meter, joules_between

MIN_INTERVALS = 10
"""A phase has an energy only if it lasts this many updates of the counter on average: the lag at
both ends is then at most about a tenth of it."""


class PhaseClock:
    """Adds up seconds and joules by phase over the iterations of a run.

    Args:
        synchronize: waits until the devices have finished, so that work is counted in the phase
            that asked for it; None on a CPU. Waiting costs speed: runs whose speed is compared
            are made without a clock.
        meter: reads the counters at every border as well, and waits itself; None for seconds only.
    """

    def __init__(
        self, synchronize: Callable[[], None] | None = None, meter: Meter | None = None
    ) -> None:
        self.seconds: dict[str, float] = {}
        self.counts: Counter[str] = Counter()
        self._synchronize, self._meter = synchronize, meter
        self._joules: dict[str, dict[str, float]] = {}
        self._problem: NoEnergy | None = None
        self._phase = "end"
        self._begun: Reading | None = None

    @classmethod
    def of(cls, *devices: torch.device, meter: Meter | None = None) -> PhaseClock:
        """A clock for models on these devices."""
        gpus = [device for device in devices if device.type == "cuda"]
        return cls(partial(synchronize, *gpus) if gpus else None, meter)

    def __call__(self, phase: str) -> None:
        """End the running phase and begin this one; "end" begins none."""
        now = self._read()
        if self._begun is not None and self._phase != "end":
            self._add(self._phase, self._begun, now)
        self._phase, self._begun = phase, now

    def energy(self, phase: str) -> Energy | NoEnergy:
        """Energy of all runs of a phase; none if they were too short for the counters."""
        if self._meter is None or self._meter.counters is None:
            return NoEnergy(self._meter.reason if self._meter else "no meter was asked for")
        if self._problem is not None:
            return self._problem
        if not self.counts[phase]:
            return NoEnergy(f"there was no phase {phase!r}")
        mean_s = self.seconds[phase] / self.counts[phase]
        needed_s = MIN_INTERVALS * self._meter.counters.interval_s
        if mean_s < needed_s:
            return NoEnergy(
                f"{phase} lasts {mean_s:.2g} s on the average; its energy needs "
                f"{MIN_INTERVALS} updates of the counter, {needed_s:.2g} s"
            )
        return self._meter.energy(dict(self._joules[phase]), self.seconds[phase])

    def _read(self) -> Reading:
        if self._synchronize is not None:
            self._synchronize()
        if self._meter is None or self._meter.counters is None:
            return Reading(time.perf_counter(), {})
        return self._meter.start()

    def _add(self, phase: str, begun: Reading, now: Reading) -> None:
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now.time_s - begun.time_s
        self.counts[phase] += 1
        if self._meter is None or self._meter.counters is None or self._problem is not None:
            return
        used = joules_between(begun, now, self._meter.counters.ranges)
        if isinstance(used, NoEnergy):
            self._problem = used
            return
        sums = self._joules.setdefault(phase, dict.fromkeys(used, 0.0))
        for device, joules in used.items():
            sums[device] += joules

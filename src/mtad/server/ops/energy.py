"""Joules of requests: the energy counters are read now and then, and shared by tokens.

A request gets of the joules of its time the share that its tokens have in all tokens of that time;
the idle power is in it. Without a meter there is a reason and no number. Knows no HTTP.
"""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Event, Lock, Thread

from mtad.measure.energy import NoEnergy, Reading
from mtad.measure.meter import MIN_INTERVALS, Meter, joules_between
from mtad.server.scheduler.sequence import Clock

IDLE_S = 10.0
"""Between two readings of an idle server: a processor's counter may begin anew within a minute."""
KEPT_S = 7200.0
"""Readings and counts that are older are dropped; longer windows have no value."""


@dataclass(frozen=True)
class _Mark:
    """Joules since the beginning at a time, and why the stretch before it has no value."""

    time_s: float
    joules: dict[str, float]
    problem: str = ""

    @property
    def total_j(self) -> float:
        return sum(self.joules.values())


class EnergyLedger:
    """What the machine used and produced over time; safe for several threads.

    Counters are read without waiting for the devices' work: a reading is late by little more than
    an iteration, and windows are much longer.

    Args:
        meter: its counters are read; without counters it has the reason.
        period_s: shortest time between two readings.
        clock: the scheduler's, so that windows can be named by the times of its jobs.
    """

    def __init__(self, meter: Meter, period_s: float = 0.5, clock: Clock = time.monotonic) -> None:
        self.meter, self.period_s, self._clock = meter, period_s, clock
        self._lock = Lock()
        self._marks: list[_Mark] = []
        self._last: Reading | None = None
        self._times: list[float] = []
        self._tokens: list[int] = []
        self._closed = Event()
        self.read()

    def start(self) -> None:
        """Go on reading while nothing is produced, until `close`."""
        if self.is_metered:
            Thread(target=self._read_on, name="mtad-energy", daemon=True).start()

    def close(self) -> None:
        """Read no more by itself."""
        self._closed.set()

    def _read_on(self) -> None:
        while not self._closed.wait(IDLE_S):
            self.read()

    @property
    def is_metered(self) -> bool:
        """Whether there are counters."""
        return self.meter.counters is not None

    def read(self) -> None:
        """Read the counters now, whatever the period."""
        with self._lock:
            self._read(self._clock())

    def count(self, num_tokens: int) -> None:
        """Note tokens that were produced just now; reads the counters once in a period."""
        if not self.is_metered:
            return
        now = self._clock()
        with self._lock:
            self._times.append(now)
            self._tokens.append((self._tokens[-1] if self._tokens else 0) + num_tokens)
            if now - self._marks[-1].time_s >= self.period_s:
                self._read(now)
                self._forget(now - KEPT_S)

    def total_joules(self) -> dict[str, float]:
        """Joules by device since the beginning, of the stretches that have a value."""
        self.read()
        with self._lock:
            return dict(self._marks[-1].joules) if self._marks else {}

    def joules_between(self, begun: float, ended: float) -> float | NoEnergy:
        """Joules of all devices between two times of the clock, or why there is no value."""
        if self.meter.counters is None:
            return NoEnergy(self.meter.reason)
        least_s = MIN_INTERVALS * self.meter.counters.interval_s
        if ended - begun < least_s:
            return NoEnergy(f"window too short: {ended - begun:.3g} s; {least_s:.3g} s are needed")
        with self._lock:
            if self._marks[-1].time_s < ended:
                self._read(self._clock())
            return self._between(begun, ended)

    def share(self, num_tokens: int, since: float, until: float) -> tuple[float | None, str | None]:
        """Joules of a request that made `num_tokens` of the tokens between two times.

        None and the reason where there is no value.
        """
        joules = self.joules_between(since, until)
        if isinstance(joules, NoEnergy):
            return None, joules.reason
        with self._lock:
            made = self._made_by(until) - self._made_by(since, before=True)
        if not 0 < num_tokens <= made:
            return None, f"the request has {num_tokens} of the {made} tokens of its time"
        return joules * num_tokens / made, None

    def _read(self, now: float) -> None:
        counters = self.meter.counters
        if counters is None or (self._marks and now <= self._marks[-1].time_s):
            return
        reading = counters.read()
        if self._last is None:
            zero = dict.fromkeys(reading.microjoules, 0.0)
            self._marks.append(_Mark(now, zero, reading.problem))
        else:
            used = joules_between(self._last, reading, counters.ranges)
            before = self._marks[-1].joules
            if isinstance(used, NoEnergy):
                self._marks.append(_Mark(now, before, used.reason))
            else:
                sums = {device: before.get(device, 0.0) + j for device, j in used.items()}
                self._marks.append(_Mark(now, sums))
        self._last = reading

    def _between(self, begun: float, ended: float) -> float | NoEnergy:
        times = [mark.time_s for mark in self._marks]
        if begun < times[0]:
            return NoEnergy("the window begins before the readings that are kept")
        if ended > times[-1]:
            return NoEnergy("the counters could not be read at the end of the window")
        first, last = bisect_right(times, begun), bisect_left(times, ended)
        for mark in self._marks[first : last + 1]:
            if mark.problem:
                return NoEnergy(mark.problem)
        used = _at(self._marks, times, ended) - _at(self._marks, times, begun)
        if used <= 0:
            return NoEnergy(f"the counters did not advance in {ended - begun:.3g} s")
        return used

    def _made_by(self, time_s: float, before: bool = False) -> int:
        """Tokens made until a time, or strictly before it."""
        find = bisect_left if before else bisect_right
        index = find(self._times, time_s)
        return self._tokens[index - 1] if index else 0

    def _forget(self, before: float) -> None:
        if self._marks[0].time_s >= before - KEPT_S / 10:
            return  # in a few large steps
        kept = bisect_left([mark.time_s for mark in self._marks], before)
        del self._marks[:kept]
        kept = max(0, bisect_left(self._times, before) - 1)
        del self._times[:kept], self._tokens[:kept]


def _at(marks: Sequence[_Mark], times: Sequence[float], time_s: float) -> float:
    """Joules at a time, on the straight line between the two readings around it."""
    after = bisect_left(times, time_s)
    right = marks[after]
    if right.time_s == time_s or after == 0:
        return right.total_j
    left = marks[after - 1]
    part = (time_s - left.time_s) / (right.time_s - left.time_s)
    return left.total_j + part * (right.total_j - left.total_j)

"""Joules of texts that are decoded at the same time: each gets the share of its tokens.

The counters are read when a text begins and when it ends; between the two, its share is that of its
tokens among all tokens. The idle power is in it. Without a meter there is a reason and no number.
Knows no server and no model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from threading import Event, Lock, Thread
from weakref import WeakKeyDictionary

from mtad.measure.energy import NoEnergy, Reading
from mtad.measure.meter import MIN_INTERVALS, Meter, joules_between

IDLE_S = 10.0
"""Between two readings of an idle server: a processor's counter may wrap within a minute."""


@dataclass(frozen=True)
class _Mark:
    """Joules, tokens and readings without a value, each since the beginning, at one time."""

    time_s: float = 0.0
    joules: float = 0.0
    num_tokens: int = 0
    num_problems: int = 0


class SharedEnergy:
    """Shares the joules of a meter among texts; safe for several threads.

    What it keeps does not grow: sums, and a mark per text until the text is deleted.

    Args:
        meter: its counters are read; without counters it has the reason.
        clock: in seconds.
    """

    def __init__(self, meter: Meter, clock: Callable[[], float] = time.monotonic) -> None:
        self._meter, self._clock = meter, clock
        self._lock, self._closed = Lock(), Event()
        self._marks: WeakKeyDictionary[object, _Mark] = WeakKeyDictionary()
        self._joules: dict[str, float] = {}
        self._num_tokens = 0
        self._last: Reading | None = None
        self._mark, self._problem = _Mark(self._clock()), ""
        with self._lock:
            self._read()

    def start(self) -> None:
        """Go on reading while nothing is decoded, until `close`."""
        if self.is_metered:
            Thread(target=self._read_on, name="mtad energy", daemon=True).start()

    def close(self) -> None:
        """Read no more by itself."""
        self._closed.set()

    def _read_on(self) -> None:
        while not self._closed.wait(IDLE_S):
            self.total_joules()

    @property
    def is_metered(self) -> bool:
        """Whether there are counters."""
        return self._meter.counters is not None

    def begin(self, text: object) -> None:
        """Begin the window of a text; a reading that is newer than the counters' update serves."""
        if not self.is_metered:
            return
        with self._lock:
            if self._clock() - self._mark.time_s >= (self._meter.interval_s or 0.0):
                self._read()
            self._marks[text] = self._mark

    def count(self, num_tokens: int) -> None:
        """Count tokens that were decoded just now."""
        with self._lock:
            self._num_tokens += num_tokens

    def total_joules(self) -> dict[str, float]:
        """Joules by device since the beginning, of the stretches that have a value."""
        with self._lock:
            self._read()
            return dict(self._joules)

    def share(self, texts: Iterable[object], num_tokens: int) -> tuple[float | None, str | None]:
        """Joules of texts that have just ended, with `num_tokens` in all.

        None and the reason where there is no value.
        """
        if not self.is_metered:
            return None, self._meter.reason
        with self._lock:
            begun = [self._marks[text] for text in texts if text in self._marks]
            if not begun:
                return None, "the counters were not read at the beginning of the request"
            self._read()
            found = self._between(min(begun, key=lambda mark: mark.time_s), self._mark, num_tokens)
        return (None, found) if isinstance(found, str) else (found, None)

    def _between(self, begun: _Mark, ended: _Mark, num_tokens: int) -> float | str:
        """The part that `num_tokens` have in the joules of a window, or why there is none."""
        wall_s, joules = ended.time_s - begun.time_s, ended.joules - begun.joules
        least_s = MIN_INTERVALS * (self._meter.interval_s or 0.0)
        made = ended.num_tokens - begun.num_tokens
        if ended.num_problems > begun.num_problems:
            return self._problem
        if wall_s < least_s:
            return f"window too short: {wall_s:.3g} s; {least_s:.3g} s are needed"
        if joules <= 0:
            return f"the counters did not advance in {wall_s:.3g} s"
        if not 0 < num_tokens <= made:
            return f"the request has {num_tokens} of the {made} tokens of its time"
        return joules * num_tokens / made

    def _read(self) -> None:
        """Read the counters and move the mark; the lock is held."""
        counters, now, mark = self._meter.counters, self._clock(), self._mark
        if counters is None:
            return
        num_problems = mark.num_problems
        if self._last is None or now > mark.time_s:
            reading = counters.read()
            used = _used(self._last, reading, counters.ranges)
            if isinstance(used, NoEnergy):
                self._problem, num_problems = used.reason, num_problems + 1
            else:
                sums = self._joules
                self._joules = {name: sums.get(name, 0.0) + used[name] for name in used}
            self._last = reading
        self._mark = _Mark(now, sum(self._joules.values()), self._num_tokens, num_problems)


def _used(
    before: Reading | None, after: Reading, ranges: Mapping[str, int]
) -> dict[str, float] | NoEnergy:
    """Joules by device between two readings; zeros where the second one is the first."""
    if before is not None:
        return joules_between(before, after, ranges)
    return NoEnergy(after.problem) if after.problem else dict.fromkeys(after.microjoules, 0.0)

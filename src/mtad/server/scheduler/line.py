"""The line of jobs that wait, in order of arrival; all that threads share.

Knows no batch's inside and no listener.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from statistics import fmean

from mtad.server.scheduler.batch import Seat
from mtad.server.scheduler.jobs import ClosingError, QueueFullError

Choice = Callable[[Iterable[Seat]], list[list[Seat]]]
"""Which of those that wait may join, in groups."""


class Line:
    """Jobs that wait; one thread takes them out, any thread may do the rest.

    Args:
        most: jobs that may wait.
        max_rows: texts that are decoded at once.

    Attributes:
        open: the jobs that are not over, wherever they are.
        closing_at: when all must be over; no jobs are taken once that is known.
    """

    def __init__(self, most: int, max_rows: int) -> None:
        self._most, self._max_rows = most, max_rows
        self._changed = threading.Condition()
        self._waiting: deque[Seat] = deque()
        self._took: deque[float] = deque(maxlen=64)
        self.open: set[Seat] = set()
        self.closing_at = math.inf

    def __len__(self) -> int:
        """Jobs that wait."""
        return len(self._waiting)

    @property
    def takes_jobs(self) -> bool:
        """Whether it is not closing."""
        return self.closing_at == math.inf

    def add(self, seats: Sequence[Seat]) -> None:
        """Put jobs at the end together, or none of them.

        Raises:
            QueueFullError: the line is too long.
            ClosingError: no more jobs are taken.
        """
        with self._changed:
            if not self.takes_jobs:
                raise ClosingError("the server is shutting down; try another one, or later")
            if len(self) + len(seats) > self._most:
                raise QueueFullError(
                    f"{len(self)} texts wait already and {len(seats)} more were sent; at most "
                    f"{self._most} may wait: try again later",
                    self._retry_after_s(),
                )
            self.open.update(seats)
            self._waiting.extend(seats)
            self._changed.notify()

    def put_back(self, seats: Sequence[Seat]) -> None:
        """Let jobs that were taken wait again, where they were."""
        with self._changed:
            everyone = [*seats, *self._waiting]
            self._waiting = deque(sorted(everyone, key=lambda seat: seat.job.id))

    def take(self, choose: Choice) -> list[list[Seat]]:
        """Those that are chosen, in their groups."""
        with self._changed:
            groups = choose(self._waiting)
            taken = {seat for group in groups for seat in group}
            if taken:
                self._waiting = deque(seat for seat in self._waiting if seat not in taken)
        return groups

    def drop(self, is_over: Callable[[Seat], bool]) -> list[Seat]:
        """Take out those of which this is true."""
        (over,) = self.take(lambda line: [list(filter(is_over, line))])
        return over

    def end(self, seat: Seat) -> bool:
        """Note that a job is over now; whether that is news."""
        if seat not in self.open:
            return False
        self.open.discard(seat)
        job = seat.job
        job.ended_at = time.monotonic()
        if job.admitted_at is not None:
            self._took.append(job.ended_at - job.admitted_at)
        return True

    def wake(self) -> None:
        """Have whoever waits look again."""
        with self._changed:
            self._changed.notify()

    def wait(self, is_busy: Callable[[], bool]) -> bool:
        """Wait for something to do; false when there will be nothing, or no time for it."""
        with self._changed:
            while True:
                is_idle = not self._waiting and not is_busy()
                if time.monotonic() >= self.closing_at or (is_idle and not self.takes_jobs):
                    return False
                if not is_idle:
                    return True
                self._changed.wait()

    def close(self, drain_s: float = 0.0) -> None:
        """Take no more jobs; those that are there have some seconds."""
        with self._changed:
            self.closing_at = min(self.closing_at, time.monotonic() + drain_s)
            self._changed.notify()

    def _retry_after_s(self) -> float:
        """Seconds in which the line may have moved up, by how long texts took lately."""
        took = list(self._took)
        if not took:
            return 1.0
        return min(60.0, max(1.0, fmean(took) * len(self) / self._max_rows))

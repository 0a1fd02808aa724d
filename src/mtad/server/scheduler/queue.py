"""The sequences that wait, in order of arrival.

Any thread adds to it; the lock for that is held for a few instructions and never by the
scheduler's thread, which moves arrivals from an inbox to its own list. Knows no batch.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as Items
from statistics import fmean

from mtad.server.scheduler.errors import ClosingError, QueueFullError
from mtad.server.scheduler.sequence import Clock, Sequence

NUM_RECENT = 64
"""Texts whose durations predict how long the queue takes."""


class WaitingQueue:
    """Sequences that wait to be admitted.

    Args:
        max_waiting: sequences that may wait beyond those that there are rows for.
        max_rows: sequences that are decoded at once.
        clock: the scheduler's.

    Attributes:
        waiting: those that have arrived, first come first; the scheduler's thread's own.
        unfinished: those that have arrived and not ended, wherever they are; likewise.
        closing_at: when all must have ended; no more are taken once that is known.
    """

    def __init__(self, max_waiting: int, max_rows: int, clock: Clock = time.monotonic) -> None:
        self._max_waiting, self._max_rows, self._clock = max_waiting, max_rows, clock
        self._adding, self._wake = threading.Lock(), threading.Event()
        self._inbox: deque[Items[Sequence]] = deque()
        self._num_added, self._num_taken, self._num_ended = 0, 0, 0  # each written on one side only
        self._durations: tuple[float, ...] = ()
        self.waiting: list[Sequence] = []
        self.unfinished: set[Sequence] = set()
        self.closing_at = math.inf

    def __len__(self) -> int:
        """Sequences that wait."""
        return self._num_added - self._num_taken

    @property
    def is_open(self) -> bool:
        """Whether more are taken."""
        return self.closing_at == math.inf

    def add(self, sequences: Items[Sequence]) -> None:
        """Put sequences at the end together, or none of them; from any thread.

        Raises:
            QueueFullError: there are too many.
            ClosingError: no more are taken.
        """
        with self._adding:
            if not self.is_open:
                raise ClosingError("the server is shutting down; try another one, or later")
            # whoever was admitted yet: a burst on an idle server fills the rows, too
            num_unfinished = self._num_added - self._num_ended
            if num_unfinished + len(sequences) > self._max_rows + self._max_waiting:
                raise QueueFullError(
                    f"{num_unfinished} texts are decoded or wait and {len(sequences)} more were "
                    f"sent; at most {self._max_rows} may be decoded and {self._max_waiting} wait: "
                    "try again later",
                    self._retry_after_s(),
                )
            for sequence in sequences:
                sequence.arrive(self._clock())
            self._num_added += len(sequences)
            self._inbox.append(sequences)
        self._wake.set()

    def _retry_after_s(self) -> float:
        """Seconds in which the queue may have moved up, by how long texts took lately."""
        durations = self._durations
        if not durations:
            return 1.0
        return min(60.0, max(1.0, fmean(durations) * len(self) / self._max_rows))

    def close(self, drain_s: float = 0.0) -> None:
        """Take no more sequences; those that are there have some seconds. From any thread."""
        with self._adding:
            self.closing_at = min(self.closing_at, self._clock() + drain_s)
        self._wake.set()

    def wake(self) -> None:
        """Have the scheduler's thread look again; from any thread."""
        self._wake.set()

    def wait(self, is_busy: Callable[[], bool]) -> bool:
        """Wait for work; false once there will be none, or no time for it."""
        while True:
            is_closing = not self.is_open  # before the inbox is looked at: nothing comes after it
            self.receive()
            is_idle = not self.waiting and not is_busy()
            if self._clock() >= self.closing_at or (is_idle and is_closing):
                return False
            if not is_idle:
                return True
            self._wake.wait()
            self._wake.clear()

    def receive(self) -> None:
        """Move arrivals from the inbox to those that wait."""
        while self._inbox:
            arrivals = self._inbox.popleft()
            self.waiting += arrivals
            self.unfinished.update(arrivals)

    def take(self, sequences: Items[Sequence]) -> None:
        """Take these out."""
        if sequences:
            taken = set(sequences)
            self.waiting = [one for one in self.waiting if one not in taken]
            self._num_taken += len(taken)

    def put_back(self, sequences: Items[Sequence]) -> None:
        """Let sequences that were taken wait again, where they were."""
        self.waiting = sorted([*sequences, *self.waiting], key=lambda one: one.id)
        self._num_taken -= len(sequences)

    def end(self, sequence: Sequence) -> bool:
        """Note that a sequence has ended; false if it had already."""
        if sequence not in self.unfinished:
            return False
        self.unfinished.discard(sequence)
        self._num_ended += 1
        sequence.ended_at = self._clock()
        if sequence.admitted_at is not None:
            took = sequence.ended_at - sequence.admitted_at
            self._durations = (*self._durations[1 - NUM_RECENT :], took)
        return True

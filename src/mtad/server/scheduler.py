"""Continuous batching: the one thread that owns the models.

Jobs wait in one line. A turn of the thread

1. drops the jobs that were cancelled or are too late,
2. takes jobs from the head of the line, in order of arrival, as long as there are rows and cache
   slots for them; the first one that finds no room keeps all others behind it,
3. gives each batch a chunk of prompt to read, if it has jobs that join, and one iteration.

There is a batch per method with its options; within it, sampling settings are each row's own. A
batch reads the prompts of one group of jobs at a time, and jobs of other methods may pass those
that wait for that. An error that a batch raises is not blamed on all of it: its jobs are taken up
again one by one, where their texts end, and only the one that fails alone has failed.

Knows no HTTP.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mtad.engine import Block, check_requests, size_of
from mtad.errors import CacheMemoryError, MtadError, first_line
from mtad.pair import ModelPair
from mtad.server.batch import Batch, Seat
from mtad.server.jobs import (
    ClosingError,
    DeadlineError,
    Failed,
    Job,
    Listener,
    ModelFailedError,
    Piece,
    QueueFullError,
    Update,
    Work,
)
from mtad.server.room import Room
from mtad.server.watch import Load, Outcome, Watch
from mtad.trace import TraceWriter

STALL_S = 120.0
"""A turn that takes longer makes the server count as dead."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """How much is decoded at once.

    Attributes:
        max_rows: texts, over all batches.
        cache_slots: sum over batches of rows times slots per row; None for what `max_rows` texts
            of the models' whole context need, as far as there is memory.
        max_queue: jobs that may wait.
    """

    max_rows: int = 32
    cache_slots: int | None = None
    max_queue: int = 256

    def __post_init__(self) -> None:
        """Refuse impossible limits."""
        for name in ("max_rows", "cache_slots", "max_queue"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")


class Scheduler:
    """Decodes the jobs of many clients with one pair of models.

    Args:
        pair: the models; nobody else should use them meanwhile.
        limits: how much is decoded at once.
        watch: told what happens.
        writer: writes every iteration down; they run eagerly then.

    Attributes:
        pair: as given.
        limits: as given.

    Raises:
        ValueError: the target is spread over processes, which would form different batches.
    """

    def __init__(
        self,
        pair: ModelPair,
        limits: Limits | None = None,
        watch: Watch | None = None,
        writer: TraceWriter | None = None,
    ) -> None:
        if pair.models.num_parts > 1:
            raise ValueError(
                f"the target is spread over {pair.models.num_parts} processes, which would form "
                "different batches; serve a target that is whole, or spread by device_map"
            )
        self.pair, self.limits = pair, limits or Limits()
        self._watch, self._writer = watch, writer
        self._room = Room.of(pair, self.limits.max_rows, self.limits.cache_slots, writer)
        self._changed = threading.Condition()
        self._line: deque[Seat] = deque()
        self._thread = threading.Thread(target=self._run, name="mtad scheduler", daemon=True)
        self._closing_at = math.inf
        self._turn_began: float | None = None
        self._ends: deque[float] = deque(maxlen=64)

    def start(self) -> None:
        """Begin to decode."""
        self._thread.start()

    def close(self, drain_s: float = 0.0) -> None:
        """Take no more jobs, let those that are there finish for some seconds, fail the rest."""
        with self._changed:
            self._closing_at = min(self._closing_at, time.monotonic() + drain_s)
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()
        else:
            self._fail_all(ClosingError("the server is shutting down"), "closing")

    def check(self, work: Work) -> None:
        """Refuse work that can never be done.

        Raises:
            ValueError, MtadError: what is wrong with it.
        """
        models = self.pair.models
        check_requests(models.target, models.draft, work.method, [work.request], models.vocab)
        rows, capacity = size_of(work.method, [work.request], models.vocab)
        if rows * capacity > self._room.slots:
            raise CacheMemoryError(
                f"the prompt, max_tokens and the method's tree need {capacity} cache slots; this "
                f"server has {self._room.slots}: lower max_tokens, or shorten the prompt"
            )

    def submit(self, works: Sequence[Work], listeners: Sequence[Listener]) -> list[Job]:
        """The jobs that do this work, put at the end of the line together, or none of them.

        Raises:
            ValueError, MtadError: as `check`.
            QueueFullError: the line is too long.
            ClosingError: no more jobs are taken.
        """
        for work in works:
            self.check(work)
        jobs = [Job(work, told) for work, told in zip(works, listeners, strict=True)]
        with self._changed:
            if not self._takes_jobs:
                raise ClosingError("the server is shutting down; try another one, or later")
            waiting, most = len(self._line), self.limits.max_queue
            if waiting + len(jobs) > most:
                raise QueueFullError(
                    f"{waiting} texts wait already and {len(jobs)} more were sent; at most {most} "
                    "may wait: try again later",
                    self._retry_after_s(waiting),
                )
            self._line.extend(self._room.seat(job) for job in jobs)
            self._changed.notify()
        return jobs

    def cancel(self, job: Job) -> None:
        """Forget a job; nothing more is told of it."""
        with self._changed:
            job.is_cancelled = True
            self._changed.notify()

    @property
    def load(self) -> Load:
        """How busy it is."""
        began, room = self._turn_began, self._room
        stalled = began is not None and time.monotonic() - began > STALL_S
        return Load(
            num_waiting=len(self._line),
            num_joining=room.num_joining,
            num_running=room.num_seats - room.num_joining,
            num_batches=len(room.batches),
            slots_reserved=room.used,
            slots_total=room.slots,
            is_alive=self._thread.is_alive() and not stalled,
            is_ready=self._thread.is_alive() and self._takes_jobs,
        )

    @property
    def _takes_jobs(self) -> bool:
        return self._closing_at == math.inf

    def _retry_after_s(self, waiting: int) -> float:
        """Seconds in which the line may have become shorter, by how fast texts ended lately."""
        if len(self._ends) < 2:
            return 1.0
        pace = (time.monotonic() - self._ends[0]) / len(self._ends)
        return min(60.0, max(1.0, pace * waiting))

    def _run(self) -> None:
        """Take turns until it is closed and all is done or the time for that is over."""
        error: MtadError = ClosingError("the server was shut down before the text was finished")
        outcome: Outcome = "closing"
        try:
            with torch.inference_mode():
                while self._wait():
                    self._turn_began = time.monotonic()
                    self._turn()
                    self._turn_began = None
        except BaseException as reason:
            _LOG.exception("the scheduler has stopped")
            error = ModelFailedError(f"the server has failed: {type(reason).__name__}")
            outcome = "error"
        self._fail_all(error, outcome)

    def _wait(self) -> bool:
        """Wait for something to do; false when there will be nothing."""
        with self._changed:
            while True:
                is_idle = not self._line and not self._room.batches
                if time.monotonic() >= self._closing_at or (is_idle and not self._takes_jobs):
                    return False
                if not is_idle:
                    return True
                self._changed.wait()

    def _turn(self) -> None:
        """One turn, see above."""
        self._drop()
        for seats in self._take():
            for seat in seats:
                seat.job.admitted_at = seat.job.admitted_at or time.monotonic()
                if self._watch and not seat.is_alone:
                    self._watch.admitted(seat.job)
            self._admit(seats)
        for batch in list(self._room.batches.values()):
            self._advance(batch)
        self._room.tidy()

    def _drop(self) -> None:
        """End the jobs that nobody waits for and those that took too long."""
        now = time.monotonic()
        with self._changed:
            waiting = list(self._line)
            over = [s for s in waiting if s.job.is_cancelled or s.job.deadline <= now]
            if over:
                self._line = deque(s for s in waiting if s not in over)
        over += self._room.drop(lambda job: job.is_cancelled or job.deadline <= now)
        for seat in over:
            limit = seat.job.work.timeout_s
            late = DeadlineError(f"the request took longer than {limit} s; ask for fewer tokens")
            self._end(seat, Failed(late), "cancelled" if seat.job.is_cancelled else "deadline")

    def _take(self) -> list[list[Seat]]:
        """The jobs that may join now, in groups of one batch, taken from the line."""
        with self._changed:
            groups = self._room.choose(self._line)
            taken = {seat for group in groups for seat in group}
            if taken:
                self._line = deque(seat for seat in self._line if seat not in taken)
        return groups

    def _admit(self, seats: list[Seat]) -> None:
        """Let jobs join their batch; if there is no memory after all, they wait or fail."""
        try:
            done = self._room.admit(seats)
        except Exception as error:
            if isinstance(error, CacheMemoryError) and self._room.num_seats:
                with self._changed:
                    self._line.extendleft(reversed(seats))
            else:
                self._part(seats, error)
            return
        for seat, update in done:
            self._end(seat, update, "length")

    def _advance(self, batch: Batch) -> None:
        """A chunk of prompt and an iteration for a batch."""
        try:
            batch.read()
            if not batch.session.rows:
                return
            news, seconds = batch.step()
        except Exception as error:
            self._part(self._room.dissolve(batch), error)
            return
        if self._watch:
            self._watch.iterated([(seat.job, block) for seat, block, _ in news], seconds)
        for seat, block, updates in news:
            self._report(seat, block, updates)

    def _report(self, seat: Seat, block: Block, updates: list[Update]) -> None:
        """Tell a listener what an iteration brought."""
        job = seat.job
        if block.token_ids:
            job.last_token_at = time.monotonic()
            job.first_token_at = job.first_token_at or job.last_token_at
        for update in updates:
            if isinstance(update, Piece):
                self._tell(job, update)
            elif isinstance(update, Failed):
                self._end(seat, update, "error")
            else:
                self._end(seat, update, "stop" if block.finish_reason == "stop" else "length")

    def _part(self, seats: list[Seat], error: Exception) -> None:
        """Find out which of the jobs fails: they are taken up again, each by itself."""
        _LOG.error("a batch of %d failed: %s", len(seats), first_line(error))
        if len(seats) > 1:
            for seat in seats:
                seat.is_alone = True
                seat.again(self.pair.tokenizer)
            with self._changed:
                self._line.extendleft(reversed(seats))
            return
        known = error if isinstance(error, MtadError) else None
        failure = known or ModelFailedError(f"the model failed: {first_line(error)}")
        for seat in seats:
            self._end(seat, Failed(failure), "error")

    def _fail_all(self, error: MtadError, outcome: Outcome) -> None:
        with self._changed:
            self._closing_at = min(self._closing_at, time.monotonic())
            seats = [*self._line, *self._room.clear()]
            self._line.clear()
        for seat in seats:
            self._end(seat, Failed(error), outcome)

    def _end(self, seat: Seat, update: Update, outcome: Outcome) -> None:
        """The last word on a job."""
        seat.job.ended_at = time.monotonic()
        self._ends.append(seat.job.ended_at)
        if self._writer and seat.trace_key:
            self._writer.end(seat.trace_key, outcome)
        if self._watch:
            self._watch.ended(seat.job, outcome)
        self._tell(seat.job, update)

    def _tell(self, job: Job, update: Update) -> None:
        if job.is_cancelled:
            return
        try:
            job.listener(update)
        except Exception:
            _LOG.exception("a listener failed; its text goes on for nobody")
            job.is_cancelled = True

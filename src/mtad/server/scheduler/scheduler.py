"""Continuous batching: the one thread that owns the models.

Jobs wait in one line. A turn of the thread

1. drops the jobs that were cancelled or are too late,
2. takes jobs from the head of the line, in order of arrival, as long as there are rows and cache
   slots for them; the first one that finds no room keeps all others behind it,
3. gives each batch that has jobs which join a chunk of their prompts to read,
4. does that again, until it has taken as long as the iterations of the last turn did: those that
   run wait for others as long as for themselves, and one chunk more,
5. gives each batch one iteration.

There is a batch per method with its options; within it, sampling settings are each row's own. A
batch reads the prompts of one group of jobs at a time, and jobs of other methods may pass those
that wait for that. An error that a batch raises is not blamed on all of it: its jobs are taken up
again one by one, where their texts end, and only the one that fails alone has failed. Jobs that
lack memory wait for others to end.

Knows no HTTP.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

import torch

from mtad.api.pair import ModelPair
from mtad.engine.request import size_of
from mtad.engine.session import Block, check_requests
from mtad.errors import CacheMemoryError, MtadError, first_line
from mtad.server.scheduler.batch import Batch, Seat
from mtad.server.scheduler.herald import Herald
from mtad.server.scheduler.jobs import (
    ClosingError,
    DeadlineError,
    Failed,
    Job,
    Listener,
    ModelFailedError,
    Piece,
    Update,
    Work,
)
from mtad.server.scheduler.line import Line
from mtad.server.scheduler.room import Limits as Limits
from mtad.server.scheduler.room import Room
from mtad.server.scheduler.watch import Load, Outcome, Watch
from mtad.trace.writer import TraceWriter

STALL_S = 120.0
"""A turn that takes longer makes the server count as dead."""

_LOG = logging.getLogger(__name__)


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
        self._herald = Herald(watch, writer)
        self._room = Room.of(pair, self.limits, writer)
        self._line = Line(self.limits.max_queue, self.limits.max_rows)
        self._thread = threading.Thread(target=self._run, name="mtad scheduler", daemon=True)
        self._turn_began: float | None = None
        self._pace_s = 0.0

    def start(self) -> None:
        """Begin to decode."""
        self._thread.start()

    def close(self, drain_s: float = 0.0) -> None:
        """Take no more jobs, let those that are there finish for some seconds, fail the rest."""
        self._line.close(drain_s)
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
        seats = [self._room.seat(job) for job in jobs]
        self._line.add(seats)
        return jobs

    def cancel(self, job: Job) -> None:
        """Forget a job; nothing more is told of it."""
        job.is_cancelled = True
        self._line.wake()

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
            is_ready=self._thread.is_alive() and self._line.takes_jobs,
        )

    def _run(self) -> None:
        """Take turns until it is closed and all is done or the time for that is over."""
        error: MtadError = ClosingError("the server was shut down before the text was finished")
        outcome: Outcome = "closing"
        try:
            with torch.inference_mode():
                while self._line.wait(lambda: bool(self._room.batches)):
                    self._turn_began = time.monotonic()
                    self._turn()
                    self._turn_began = None
        except BaseException as reason:
            _LOG.exception("the scheduler has stopped")
            error = ModelFailedError(f"the server has failed: {type(reason).__name__}")
            outcome = "error"
        self._fail_all(error, outcome)

    def _turn(self) -> None:
        """One turn, see above."""
        until = time.monotonic() + self._pace_s
        while self._read() and time.monotonic() < until:
            pass
        self._pace_s = sum(self._iterate(batch) for batch in list(self._room.batches.values()))
        self._room.tidy()

    def _read(self) -> bool:
        """Let jobs leave and join, and read a chunk of each batch's prompts; whether any were."""
        self._drop()
        for seats in self._line.take(self._room.choose):
            self._admit(seats)
        reading = [batch for batch in self._room.batches.values() if batch.reading]
        for batch in reading:
            try:
                batch.read()
            except Exception as error:
                self._part(self._room.dissolve(batch), error)
        return bool(reading)

    def _drop(self) -> None:
        """End the jobs that nobody waits for and those that took too long."""
        now, live = time.monotonic(), self._line.open

        def is_over(seat: Seat) -> bool:
            return seat.job.is_cancelled or seat.job.deadline <= now or seat not in live

        over = self._line.drop(is_over)
        for batch in list(self._room.batches.values()):
            try:
                over += batch.drop(is_over)
            except Exception as error:
                self._part(self._room.dissolve(batch), error)
        for seat in over:
            limit = seat.job.work.timeout_s
            late = DeadlineError(f"the request took longer than {limit} s; ask for fewer tokens")
            self._end(seat, Failed(late), "cancelled" if seat.job.is_cancelled else "deadline")

    def _admit(self, seats: list[Seat]) -> None:
        """Let jobs join their batch."""
        fresh = [seat.job for seat in seats if seat.job.admitted_at is None]
        for job in fresh:
            job.admitted_at = time.monotonic()
        try:
            done = self._room.admit(seats)
        except Exception as error:
            for job in fresh:
                job.admitted_at = None
            self._part(seats, error)
            return
        self._herald.admitted(fresh)
        for seat, update in done:
            self._end(seat, update, "length")

    def _iterate(self, batch: Batch) -> float:
        """An iteration for a batch, if it has rows that run; how many seconds it took."""
        if not batch.session.rows:
            return 0.0
        try:
            news, seconds = batch.step()
        except Exception as error:
            self._part(self._room.dissolve(batch), error)
            return 0.0
        self._herald.iterated(news, seconds)
        for seat, block, updates in news:
            self._report(seat, block, updates)
        return seconds

    def _report(self, seat: Seat, block: Block, updates: list[Update]) -> None:
        """Tell a listener what an iteration brought."""
        job = seat.job
        if block.token_ids:
            job.last_token_at = time.monotonic()
            job.first_token_at = job.first_token_at or job.last_token_at
        for update in updates:
            if isinstance(update, Piece):
                self._herald.tell(job, update)
            elif isinstance(update, Failed):
                self._end(seat, update, "error")
            else:
                self._end(seat, update, "stop" if block.finish_reason == "stop" else "length")

    def _part(self, seats: list[Seat], error: Exception) -> None:
        """Find out which of the jobs fails: they are taken up again, each by itself.

        Those that only lack memory wait for others to end, if there are any.
        """
        seats = [seat for seat in seats if seat in self._line.open]
        waits = isinstance(error, CacheMemoryError) and self._room.num_seats > 0
        if not waits:
            _LOG.error("a batch of %d failed", len(seats), exc_info=error)
            self._require_devices()
        if waits or len(seats) > 1:
            for seat in seats:
                seat.is_alone = seat.is_alone or not waits
                seat.again(self.pair.tokenizer)
            self._line.put_back(seats)
            return
        known = error if isinstance(error, MtadError) else None
        failure = known or ModelFailedError(f"the model failed: {first_line(error)}")
        for seat in seats:
            self._end(seat, Failed(failure), "error")

    def _require_devices(self) -> None:
        """Raise, which ends it all, if an error has left a GPU unable to do anything."""
        models = [m for m in (self.pair.models.target, self.pair.models.draft) if m is not None]
        for device in {model.device for model in models}:
            if device.type == "cuda":
                torch.cuda.synchronize(device)

    def _fail_all(self, error: MtadError, outcome: Outcome) -> None:
        """The end of all jobs, wherever they are."""
        self._line.close()
        self._line.drop(lambda seat: True)
        self._room.batches = {}
        for seat in sorted(self._line.open, key=lambda seat: seat.job.id):
            self._end(seat, Failed(error), outcome)

    def _end(self, seat: Seat, update: Update, outcome: Outcome) -> None:
        """The last word on a job, if none has been said."""
        if self._line.end(seat):
            self._herald.ended(seat, update, outcome)

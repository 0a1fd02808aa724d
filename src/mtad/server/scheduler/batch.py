"""The jobs of one method that are decoded together, as a session with its listeners.

Knows no queue and no thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from mtad.api.completion import Running
from mtad.api.guard import Lap
from mtad.api.pair import ModelPair
from mtad.engine.session import Block, Observation, Session, Step
from mtad.errors import first_line
from mtad.server.scheduler.jobs import Done, Failed, Job, ModelFailedError, Piece, Update
from mtad.speculative.method import name_of
from mtad.trace.writer import TokenLogprobs, TraceWriter, record_of, token_logprobs

News: TypeAlias = "tuple[Seat, Block, list[Update]]"
"""What an iteration brought a job: the block, and what its listener is to be told."""


@dataclass(eq=False)
class Seat:
    """A job in a batch, or on its way back into one.

    Attributes:
        job: what is done.
        running: its text so far.
        read_s: seconds from leaving the queue until its prompt was read.
        decode_s: seconds of its iterations.
        trace_key: names it in the trace file.
        is_alone: whether it is decoded by itself, because a batch that it was in failed.
    """

    job: Job
    running: Running
    read_s: float = 0.0
    decode_s: float = 0.0
    trace_key: str = ""
    is_alone: bool = False

    @property
    def key(self) -> Hashable:
        """What it shares with the jobs of its batch."""
        name = name_of(self.job.work.method)
        return (name, self.job.id) if self.is_alone else name

    @property
    def is_shown(self) -> bool:
        """Whether its iterations must be looked at."""
        work = self.job.work
        return work.traced or work.num_logprobs is not None or bool(self.trace_key)

    def again(self, tokenizer: Any) -> None:
        """Make it ready to be taken up where its listener's text ends."""
        so_far = [token for block in self.running.blocks for token in block.token_ids]
        request = replace(self.job.work.request, output_ids=so_far)
        fresh = Running.of(request, tokenizer, self.job.work.stops)
        if fresh.stream:
            for token in so_far:
                fresh.stream.push(token)
            fresh.stream.take()
        self.running.request, self.running.stream = fresh.request, fresh.stream


@dataclass(eq=False)
class Batch:
    """The jobs that one session decodes.

    Attributes:
        pair: the models.
        session: decodes them, all by one method.
        writer: writes every iteration down; None for no trace.
        seats: the jobs by their index in the session.
        reading: those whose prompts are being read.
    """

    pair: ModelPair
    session: Session
    writer: TraceWriter | None = None
    seats: dict[int, Seat] = field(default_factory=dict)
    reading: list[int] = field(default_factory=list)

    def admit(self, seats: Sequence[Seat]) -> None:
        """Begin to read the prompts of these jobs; not while others are being read.

        Raises:
            CacheMemoryError: the caches cannot grow; nothing has changed.
        """
        indices = self.session.join([seat.running.request for seat in seats])
        self.seats |= dict(zip(indices, seats, strict=True))
        self.reading = indices

    def read(self) -> None:
        """Read one chunk of the prompts that are waiting for it, if any are."""
        if self.reading and not self.session.read():
            now = time.monotonic()
            for index in self.reading:
                seat = self.seats[index]
                seat.read_s = seat.read_s or now - (seat.job.admitted_at or now)
            self.reading = []

    def drop(self, is_over: Callable[[Seat], bool]) -> list[Seat]:
        """Take out the jobs of which this is true.

        Prompts that are read together are given up together; a group of several is read at once.
        """
        gone = {index for index, seat in self.seats.items() if is_over(seat)}
        if gone.issuperset(self.reading):
            self.reading = []
        gone -= set(self.reading)
        if gone:
            self.session.leave(gone)
        return [self.seats.pop(index) for index in gone]

    def step(self) -> tuple[list[News], float]:
        """One iteration: what it brought each job, and its seconds.

        A job whose text cannot be told has failed, and runs on until it is dropped.
        """
        seen: list[Observation] = []
        rows = list(self.session.rows)
        is_shown = any(self.seats[index].is_shown for index in rows)
        self.session.observe = seen.append if is_shown else None
        began = time.perf_counter()
        step = self.session.step()
        seconds = time.perf_counter() - began
        news = []
        for row, block in enumerate(step.blocks):
            seat = self.seats[block.request]
            seat.decode_s += seconds
            news.append((seat, block, self._updates(seat, block, step, seen, row)))
        for block in step.blocks:
            if block.finish_reason:
                del self.seats[block.request]
        return news, seconds

    def _updates(
        self, seat: Seat, block: Block, step: Step, seen: list[Observation], row: int
    ) -> list[Update]:
        """What the listener is told of a block, and of the end if it is the last one."""
        if block.error is not None:
            return [Failed(block.error)]
        seat.running.take(block, seat.read_s, Lap(step, seat.decode_s))
        try:
            piece = self._piece(seat, block, seen[0] if seen else None, row)
        except Exception as error:  # the neighbours have done nothing wrong
            return [Failed(ModelFailedError(f"the text cannot be told: {first_line(error)}"))]
        return [piece, self.done(seat)] if block.finish_reason else [piece]

    def _piece(self, seat: Seat, block: Block, seen: Observation | None, row: int) -> Piece:
        running, work = seat.running, seat.job.work
        text = running.stream.take(block.finish_reason is not None) if running.stream else ""
        if seen is None:
            return Piece(text, block)
        record: dict[str, Any] | None = None
        logprobs: tuple[TokenLogprobs, ...] = ()
        if work.num_logprobs is not None:
            logprobs = token_logprobs(seen, row, block, work.num_logprobs)
        if work.traced or seat.trace_key:
            record = record_of(seen, row, block, self.pair.text_of, self.session.method)
        if self.writer and seat.trace_key and record:
            self.writer.iteration(seat.trace_key, record, seen, row, self.session.method)
        return Piece(text, block, logprobs, record if work.traced else None)

    def done(self, seat: Seat) -> Done:
        """The last update of a job that is finished."""
        job = seat.job
        queue_s = (job.admitted_at or job.arrived_at) - job.arrived_at
        return Done(seat.running.completion(), queue_s)

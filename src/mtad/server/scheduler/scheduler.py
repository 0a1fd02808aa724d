"""Continuous batching: the one thread that owns the models.

A step of the thread is: admit, prefill, decode, publish.

1. Sequences that are cancelled or too late leave; waiting ones are admitted in order of arrival as
   long as there are rows and cache slots for them. The first that lacks these keeps all others
   behind it.
2. Each batch with sequences in the prefill prefills one chunk of their prompts. Both are repeated
   until they have taken as long as the last step's iterations: those that run wait for others as
   long as for themselves, and one chunk more.
3. Each batch decodes one iteration.
4. What came of it goes to the publisher's thread, which detokenizes, counts and sends.

There is a batch per method with its options, and a separate one for sequences whose iterations must
be observed; within it, sampling settings are each row's own. An error that a batch raises is not
blamed on all of it: its sequences are preempted and resumed one by one, where their texts end, and
only the one that fails alone has failed. Sequences that lack memory wait for others to end.

Knows no HTTP.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Hashable
from collections.abc import Sequence as Items

import torch

from mtad.api.pair import ModelPair
from mtad.errors import CacheMemoryError, MtadError, first_line
from mtad.server.scheduler.admission import Admission, Limits, num_rows
from mtad.server.scheduler.batch import Batch, require_devices
from mtad.server.scheduler.errors import ClosingError, ModelFailedError
from mtad.server.scheduler.events import Load, Observer
from mtad.server.scheduler.publisher import Publisher
from mtad.server.scheduler.queue import WaitingQueue
from mtad.server.scheduler.sequence import Chunk, Clock, Outcome, Sequence
from mtad.trace.writer import TraceWriter

STALL_S = 120.0
"""A step that takes longer makes the server count as dead."""

_LOG = logging.getLogger(__name__)


class Scheduler:
    """Decodes the sequences of many clients with one pair of models.

    Args:
        pair: the models; only the scheduler may use them meanwhile.
        limits: how much is decoded at once.
        observers: see what happens.
        writer: writes every iteration down; they run eagerly then.
        clock: shows seconds.

    Raises:
        ValueError: the target is spread over processes, which would form different batches.
    """

    def __init__(
        self,
        pair: ModelPair,
        limits: Limits | None = None,
        observers: Items[Observer] = (),
        writer: TraceWriter | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        if pair.models.num_parts > 1:
            raise ValueError(
                f"the target is spread over {pair.models.num_parts} processes, which would form "
                "different batches; serve a target that is whole, or spread by device_map"
            )
        self.pair, limits = pair, limits or Limits()
        self._writer, self._clock = writer, clock
        self._queue = WaitingQueue(limits.max_queue, limits.max_rows, clock)
        self._admission = Admission.of(pair, limits)
        self._publisher = Publisher(observers, writer)
        self._batches: dict[Hashable, Batch] = {}
        self._thread = threading.Thread(target=self._run, name="mtad scheduler", daemon=True)
        self._step_began: float | None = None
        self._decode_s = 0.0

    def start(self) -> None:
        """Begin to decode."""
        self._publisher.start()
        self._thread.start()

    def close(self, drain_s: float = 0.0) -> None:
        """Take no more sequences, let those that are there finish for some seconds, fail the rest.

        Returns when the last chunk has been sent.
        """
        self._queue.close(drain_s)
        if self._thread.ident is not None:
            self._thread.join()
        else:
            self._fail_all(ClosingError("the server is shutting down"), "closing")
        self._publisher.close()

    def submit(self, sequences: Items[Sequence]) -> None:
        """Put sequences at the end of the queue together, or none of them; from any thread.

        Raises:
            ValueError, MtadError: one of them can never be decoded.
            QueueFullError: the queue is too long.
            ClosingError: no more are taken.
        """
        for sequence in sequences:
            self._admission.check(sequence)
        self._queue.add(sequences)

    def cancel(self, sequence: Sequence) -> None:
        """Send no more of a sequence, and end it with the next step; from any thread."""
        sequence.is_cancelled = True
        self._queue.wake()

    @property
    def load(self) -> Load:
        """How busy it is; from any thread."""
        began, batches = self._step_began, list(self._batches.values())
        stalled = began is not None and self._clock() - began > STALL_S
        num_prefilling = sum(len(batch.prefilling) for batch in batches)
        is_alive = self._thread.is_alive()
        return Load(
            num_waiting=len(self._queue),
            num_prefilling=num_prefilling,
            num_running=sum(len(batch.sequences) for batch in batches) - num_prefilling,
            num_batches=len(batches),
            slots_reserved=sum(batch.session.slots_with([]) for batch in batches),
            slots_total=self._admission.slots,
            is_alive=is_alive and not stalled,
            is_ready=is_alive and self._queue.is_open,
        )

    def _run(self) -> None:
        """Step until it is closed and all is done or the time for that is over."""
        try:
            with torch.inference_mode():
                while self._queue.wait(lambda: bool(self._batches)):
                    self._step_began = self._clock()
                    self._step()
                    self._step_began = None
        except BaseException as reason:
            _LOG.exception("the scheduler has stopped")
            failure = ModelFailedError(f"the server has failed: {type(reason).__name__}")
            self._fail_all(failure, "error")
        self._fail_all(
            ClosingError("the server was shut down before the text was finished"), "closing"
        )

    def _step(self) -> None:
        """Admit, prefill, decode, publish; see above."""
        until = self._clock() + self._decode_s
        self._admit()
        while self._prefill() and self._clock() < until:
            self._admit()
        self._decode_s = 0.0
        for batch in list(self._batches.values()):
            chunks, seconds = self._decode(batch)
            self._publish(chunks, seconds)
            self._decode_s += seconds
        self._batches = {key: batch for key, batch in self._batches.items() if batch.sequences}

    def _admit(self) -> None:
        """Let sequences that are over leave, and waiting ones join their batches."""
        self._drop()
        self._queue.receive()
        for group in self._admission.choose(self._queue.waiting, self._batches):
            self._queue.take(group)
            self._join(group)

    def _prefill(self) -> bool:
        """Prefill a chunk of each batch that has prompts to; whether any has."""
        batches = [batch for batch in self._batches.values() if batch.prefilling]
        for batch in batches:
            try:
                batch.prefill(self._clock())
                scored = (
                    batch.drop(lambda one: one.ends_with_prompt) if not batch.prefilling else []
                )
            except Exception as error:
                self._take_apart(batch, error)
                continue
            for sequence in scored:
                self._end(sequence, "length")
        return bool(batches)

    def _decode(self, batch: Batch) -> tuple[list[Chunk], float]:
        """An iteration of a batch, if it has rows that run: its chunks, and its seconds."""
        if not batch.session.rows:
            return [], 0.0
        try:
            return batch.decode(self._clock)
        except Exception as error:
            self._take_apart(batch, error)
            return [], 0.0

    def _publish(self, chunks: list[Chunk], seconds: float) -> None:
        """Hand on what an iteration brought."""
        for chunk in chunks:
            if chunk.is_last:
                self._queue.end(chunk.sequence)
                chunk.sequence.outcome = chunk.finish_reason or "error"
        if chunks:
            self._publisher.decoded(chunks, seconds)

    def _drop(self) -> None:
        """End the sequences that are cancelled, too late, or failed outside of this thread."""
        now = self._clock()
        over = [sequence for sequence in self._queue.waiting if sequence.is_over(now)]
        self._queue.take(over)
        for batch in list(self._batches.values()):
            try:
                over += batch.drop(lambda one: one.is_over(now))
            except Exception as error:
                self._take_apart(batch, error)
        for sequence in over:
            self._end(sequence, *sequence.why_over)

    def _join(self, group: list[Sequence]) -> None:
        """Let sequences of one batch join it; those that have nothing to do end."""
        fresh = [sequence for sequence in group if sequence.admitted_at is None]
        for sequence in fresh:
            sequence.admitted_at = self._clock()
        try:
            self._join_batch([one for one in group if one.request.num_left > 0])
        except Exception as error:
            for sequence in fresh:
                sequence.admitted_at = None
            self._resume(group, error)
            return
        self._publisher.admitted(fresh)
        for sequence in group:
            if self._writer and not self._writer.error and not sequence.trace_key:
                sequence.trace_key = self._writer.request(
                    sequence.request, sequence.method, sequence.request_id
                )
            if sequence.request.num_left <= 0:
                self._end(sequence, "length")

    def _join_batch(self, group: list[Sequence]) -> None:
        if group:
            key = group[0].batch_key
            batch = self._batches.get(key) or Batch.of(self.pair, group[0].method, self._writer)
            batch.add(group)
            self._batches[key] = batch

    def _take_apart(self, batch: Batch, error: Exception) -> None:
        """Give a batch up after an error, and find out which of its sequences fails."""
        self._batches = {key: one for key, one in self._batches.items() if one is not batch}
        self._resume(list(batch.sequences.values()), error)

    def _resume(self, sequences: list[Sequence], error: Exception) -> None:
        """Preempt sequences, to be resumed each by itself; one that was by itself has failed.

        Those that only lack memory wait for others to end, if there are any.
        """
        sequences = [sequence for sequence in sequences if sequence in self._queue.unfinished]
        waits = isinstance(error, CacheMemoryError) and num_rows(self._batches) > 0
        if not waits:
            _LOG.error("a batch of %d failed", len(sequences), exc_info=error)
            require_devices(self.pair)
        if waits or len(sequences) > 1:
            for sequence in sequences:
                sequence.is_alone = sequence.is_alone or not waits
                sequence.preempt()
            self._queue.put_back(sequences)
            return
        if not isinstance(error, MtadError):
            error = ModelFailedError(f"the model failed: {first_line(error)}")
        for sequence in sequences:
            self._end(sequence, "error", error)

    def _fail_all(self, error: MtadError, outcome: Outcome) -> None:
        """End all sequences, wherever they are."""
        self._queue.close()
        self._queue.receive()
        self._queue.take(self._queue.waiting)
        self._batches = {}
        for sequence in sorted(self._queue.unfinished, key=lambda one: one.id):
            self._end(sequence, outcome, error)

    def _end(self, sequence: Sequence, outcome: Outcome, error: Exception | None = None) -> None:
        """End a sequence without an iteration, if it has not ended."""
        if self._queue.end(sequence):
            sequence.outcome = outcome
            reason = None if error or outcome == "cancelled" else sequence.finish_reason
            self._publisher.ended(Chunk(sequence, finish_reason=reason, error=error))

"""The sequences of one method that are decoded together: an engine session with its sequences.

Knows no queue and no thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from collections.abc import Sequence as Items
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from mtad.api.guard import Guard, Iteration
from mtad.api.pair import ModelPair
from mtad.engine.session import Block, Session
from mtad.engine.step import Observation
from mtad.errors import first_line
from mtad.measure.device import synchronize
from mtad.server.scheduler.errors import ModelFailedError
from mtad.server.scheduler.sequence import Chunk, Clock, Sequence
from mtad.speculative.method import Method
from mtad.trace.record import TokenLogprobs, TracedRow, logprobs_of, record_of, token_logprobs
from mtad.trace.writer import TraceWriter

MOST_RECORDED = {"cpu": 8}
"""Rows up to which iterations are recorded, by kind of device. On a CPU larger batches gain little
by it, and have so many numbers of rows that they would be recorded all the time."""


def pads_batches(pair: ModelPair) -> bool:
    """Whether batches are filled up with copies: a GPU has captured programs for few sizes."""
    return pair.models.target.device.type == "cuda"


def require_devices(pair: ModelPair) -> None:
    """Raise if an error has left a GPU unable to do anything."""
    models = [model for model in (pair.models.target, pair.models.draft) if model is not None]
    synchronize(*{model.device for model in models})


@dataclass(eq=False)
class Batch:
    """The sequences that one session decodes.

    Attributes:
        pair: the models.
        session: decodes them, all by one method.
        writer: writes every iteration down; None for no trace file.
        sequences: by their index in the session.
        prefilling: indices of those in the prefill.
        guard: chooses what iterations draft while every running sequence permits that.
    """

    pair: ModelPair
    session: Session
    writer: TraceWriter | None = None
    sequences: dict[int, Sequence] = field(default_factory=dict)
    prefilling: list[int] = field(default_factory=list)
    guard: Guard | None = None

    @classmethod
    def of(cls, pair: ModelPair, method: Method, writer: TraceWriter | None) -> Batch:
        """An empty batch."""
        m = pair.models
        session = Session(
            m.target,
            m.draft,
            method,
            [],
            m.vocab,
            workspace=pair.workspace,
            pads=pads_batches(pair),
            most_captured=MOST_RECORDED.get(m.target.device.type),
        )
        return cls(pair, session, writer)

    def add(self, sequences: Items[Sequence]) -> None:
        """Begin the prefill of sequences; not while others are in it.

        Raises:
            CacheMemoryError: the caches cannot grow; nothing has changed.
        """
        indices = self.session.join([sequence.salted for sequence in sequences])
        self.sequences |= dict(zip(indices, sequences, strict=True))
        self.prefilling = indices
        for sequence in sequences:
            sequence.prompt_logprobs.clear()  # it is prefilled anew where it was preempted
        for index, num_cached in self.session.cached.items():
            if not self.sequences[index].stats.prefill_s:  # what counts is its first prefill
                self.sequences[index].stats.num_cached_tokens = num_cached

    def prefill(self, now: float) -> None:
        """Prefill one chunk of the prompts, if any are in it."""
        scored = any(self.sequences[index].scores_prompt for index in self.prefilling)
        self.session.observe_prefill = self._score if scored else None
        if self.prefilling and not self.session.prefill_chunk():
            for sequence in map(self.sequences.__getitem__, self.prefilling):
                since = now if sequence.admitted_at is None else sequence.admitted_at
                sequence.stats.prefill_s = sequence.stats.prefill_s or now - since
            self.prefilling = []

    def _score(self, logits: Tensor, chunk: slice) -> None:
        """Add the log-probabilities of the prompts' tokens that come after those of a chunk."""
        for row, index in enumerate(self.prefilling):
            sequence = self.sequences[index]
            if sequence.scores_prompt:
                tokens = sequence.request.prompt_ids[chunk.start + 1 : chunk.stop + 1]
                top = sequence.num_logprobs or 0
                if tokens:
                    sequence.prompt_logprobs += logprobs_of(logits[row, : len(tokens)], tokens, top)

    def drop(self, is_over: Callable[[Sequence], bool]) -> list[Sequence]:
        """Take out the sequences of which this is true.

        A group in the prefill leaves as a whole or not at all; a group of several is one chunk.
        """
        gone = {index for index, sequence in self.sequences.items() if is_over(sequence)}
        if gone.issuperset(self.prefilling):
            self.prefilling = []
        gone -= set(self.prefilling)
        if gone:
            self.session.leave(gone)
        return [self.sequences.pop(index) for index in gone]

    def decode(self, clock: Clock) -> tuple[list[Chunk], float]:
        """One iteration: a chunk of each row, in the order of the rows, and its seconds."""
        seen: list[Observation] = []
        self.session.observe = seen.append if self._needs_observation else None
        began = time.perf_counter()
        iteration = self._iterated()
        seconds, now = time.perf_counter() - began, clock()
        chunks = []
        for row, block in enumerate(iteration.step.blocks):
            sequence = self.sequences[block.request]
            if block.finish_reason:
                del self.sequences[block.request]
            chunk = _chunk(sequence, block, iteration, seconds, now)
            if chunk.error is None:
                self._complete(chunk, row, seen)
            chunks.append(chunk)
        return chunks, seconds

    def _iterated(self) -> Iteration:
        """The next iteration: as the guard chooses, or the method's own where a row forbids it."""
        session, running = self.session, self._running
        is_free = all(one.guarded for one in running)
        if is_free and self.guard is None:
            requests, clock = [one.request for one in running], time.perf_counter
            control = self.pair.guards.controller(session.largest, requests, clock)
            self.guard = Guard(session, control, clock)
        if self.guard is None:
            return Iteration(session.step())
        return (self.guard.take if is_free else self.guard.take_own)(session.step)

    @property
    def _running(self) -> list[Sequence]:
        return [self.sequences[index] for index in self.session.rows]

    @property
    def _needs_observation(self) -> bool:
        return any(one.needs_observation or one.trace_key for one in self._running)

    def _complete(self, chunk: Chunk, row: int, seen: Items[Observation]) -> None:
        """Add what must be made on this thread: stop strings, log-probabilities, traces.

        A sequence for which that fails has failed, alone; its row runs on until it is dropped.

        Args:
            chunk: of a sound block.
            row: the sequence's place in the batch during this iteration, which is where the
                tensors of `seen` have it. `block.request`, its index, is another number.
            seen: the iteration, where anything needs it.
        """
        sequence, block = chunk.sequence, chunk.block
        assert block is not None
        try:
            if seen:
                chunk.logprobs = _logprobs(sequence, seen[0], row, block)
                chunk.trace = self._trace(sequence, seen[0], row, block)
            if sequence.has_stops:
                sequence.fill(chunk)
        except Exception as error:
            chunk.error = ModelFailedError(f"the text cannot be sent: {first_line(error)}")
            chunk.finish_reason = None

    def _trace(
        self, sequence: Sequence, seen: Observation, row: int, block: Block
    ) -> tuple[dict[str, Any], ...]:
        """The iteration in full, for the request and the trace file, if either wants it.

        It is written on this thread, so that decoding waits for a slow disk; in the publisher's
        queue, which has no limit, the logits of many iterations would fill the memory.
        """
        if not (sequence.traced or sequence.trace_key):
            return ()
        traced = TracedRow.of(seen, row, self.session.method)
        record = record_of(traced, block, self.pair.text_of)
        if self.writer and sequence.trace_key:
            self.writer.iteration(sequence.trace_key, record, traced)
        return (record,) if sequence.traced else ()


def _chunk(
    sequence: Sequence, block: Block, iteration: Iteration, seconds: float, now: float
) -> Chunk:
    """The chunk of a block, and the block added to its sequence unless it has an error."""
    if block.error is not None:
        return Chunk(sequence, block, error=block.error, at=now)
    gap_s = sequence.advance(block, seconds, now, iteration.drafted, iteration.reason)
    reason = sequence.finish_reason if block.finish_reason else None
    return Chunk(
        sequence, block, token_ids=block.token_ids, finish_reason=reason, at=now, gap_s=gap_s
    )


def _logprobs(
    sequence: Sequence, seen: Observation, row: int, block: Block
) -> tuple[TokenLogprobs, ...]:
    if sequence.num_logprobs is None:
        return ()
    return token_logprobs(seen, row, block, sequence.num_logprobs)

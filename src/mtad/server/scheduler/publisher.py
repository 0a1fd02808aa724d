"""Sends events to observers, the trace file and sinks, on a thread of its own.

What need not be known before the next iteration is done here: text without stop strings is
detokenized, metrics are counted. Knows no batch and no queue.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from collections.abc import Sequence as Items
from functools import partial
from queue import SimpleQueue

from mtad.errors import first_line
from mtad.server.scheduler.errors import ModelFailedError
from mtad.server.scheduler.events import Observer
from mtad.server.scheduler.sequence import Chunk, Sequence
from mtad.trace.writer import TraceWriter

_LOG = logging.getLogger(__name__)


class Publisher:
    """Publishes events in their order.

    Args:
        observers: see the events of all sequences.
        writer: of the trace file, which learns how texts end; None for no file.
    """

    def __init__(self, observers: Items[Observer], writer: TraceWriter | None) -> None:
        self._observers, self._writer = observers, writer
        self._events: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="mtad publisher", daemon=True)
        self._has_failed = False

    def start(self) -> None:
        """Begin to publish."""
        self._thread.start()

    def close(self) -> None:
        """Publish what has happened, and end."""
        self._events.put(None)
        if self._thread.ident is None:
            self._run()
        else:
            self._thread.join()

    def admitted(self, sequences: Items[Sequence]) -> None:
        """These have left the queue; returns at once, as the other events do."""
        self._events.put(partial(self._admitted, sequences))

    def decoded(self, chunks: Items[Chunk], seconds: float) -> None:
        """A batch has had an iteration."""
        self._events.put(partial(self._decoded, chunks, seconds))

    def ended(self, chunk: Chunk) -> None:
        """A sequence has ended without an iteration."""
        self._events.put(partial(self._publish, chunk))

    def _run(self) -> None:
        while (event := self._events.get()) is not None:
            try:
                event()
            except Exception:
                _LOG.exception("an event could not be published")

    def _admitted(self, sequences: Items[Sequence]) -> None:
        for observer in self._observers:
            for sequence in sequences:
                self._try(partial(observer.admitted, sequence))

    def _decoded(self, chunks: Items[Chunk], seconds: float) -> None:
        for observer in self._observers:
            self._try(partial(observer.decoded, chunks, seconds))
        for chunk in chunks:
            self._publish(chunk)

    def _publish(self, chunk: Chunk) -> None:
        """Send a chunk; a text that could not be detokenized ends with that error."""
        sequence = chunk.sequence
        if sequence.failure is None and chunk.text is None:
            _detokenize(chunk)
        if not chunk.is_last:
            if sequence.failure is None:
                self._send(chunk)
            return
        if sequence.failure is not None:
            sequence.outcome = "error"
            chunk = Chunk(sequence, error=sequence.failure)
        elif sequence.is_cancelled:
            sequence.outcome = "cancelled"
        self._ended(sequence)
        self._send(chunk)

    def _ended(self, sequence: Sequence) -> None:
        if (writer := self._writer) and sequence.trace_key:
            self._try(partial(writer.end, sequence.trace_key, str(sequence.outcome)))
        for observer in self._observers:
            self._try(partial(observer.ended, sequence))

    def _send(self, chunk: Chunk) -> None:
        """Give a chunk to its sink, unless it is cancelled; a sink that fails gets no more."""
        sequence = chunk.sequence
        if sequence.is_cancelled:
            return
        try:
            sequence.sink(chunk)
        except Exception:
            _LOG.exception("a sink failed; its text is cancelled")
            sequence.is_cancelled = True

    def _try(self, send: Callable[[], None]) -> None:
        """Send an event; the first failure is logged, for others will be like it."""
        try:
            send()
        except Exception:
            if not self._has_failed:
                _LOG.exception("an observer failed: metrics or the trace file are incomplete")
            self._has_failed = True


def _detokenize(chunk: Chunk) -> None:
    """Fill in the text of a chunk; the scheduler ends a sequence for which that fails."""
    try:
        if chunk.block:
            chunk.sequence.fill(chunk)
        chunk.text = chunk.text or ""
    except Exception as error:
        reason = f"the text cannot be sent: {first_line(error)}"
        chunk.sequence.failure = ModelFailedError(reason)

"""Telling what becomes of jobs: to their listeners, to the watch and to the trace.

What those who are told raise is logged and harms neither the job nor its neighbours. Knows no
batch and no thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial

from mtad.server.scheduler.batch import News, Seat
from mtad.server.scheduler.jobs import Job, Update
from mtad.server.scheduler.watch import Outcome, Watch
from mtad.trace.writer import TraceWriter

_LOG = logging.getLogger(__name__)


class Herald:
    """Tells everybody.

    Args:
        watch: told what happens; None for nobody.
        writer: told how texts end; None for no trace.
    """

    def __init__(self, watch: Watch | None, writer: TraceWriter | None) -> None:
        self._watch, self._writer = watch, writer
        self._has_failed = False

    def admitted(self, jobs: Sequence[Job]) -> None:
        """These have left the line."""
        if watch := self._watch:
            for job in jobs:
                self._try(partial(watch.admitted, job))

    def iterated(self, news: Sequence[News], seconds: float) -> None:
        """A batch has had an iteration."""
        if watch := self._watch:
            blocks = [(seat.job, block) for seat, block, _ in news]
            self._try(partial(watch.iterated, blocks, seconds))

    def ended(self, seat: Seat, update: Update, outcome: Outcome) -> None:
        """A job is over, and this is its last update."""
        if (writer := self._writer) and seat.trace_key:
            self._try(partial(writer.end, seat.trace_key, outcome))
        if watch := self._watch:
            self._try(partial(watch.ended, seat.job, outcome))
        self.tell(seat.job, update)

    def tell(self, job: Job, update: Update) -> None:
        """Tell a job's listener, unless the job is cancelled; one that fails hears no more."""
        if job.is_cancelled:
            return
        try:
            job.listener(update)
        except Exception:
            _LOG.exception("a listener failed; its text goes on for nobody")
            job.is_cancelled = True

    def _try(self, telling: Callable[[], None]) -> None:
        """Tell the watch or the trace; the first failure is logged, for others will be like it."""
        try:
            telling()
        except Exception:
            if not self._has_failed:
                _LOG.exception("what happens cannot be counted or written down")
            self._has_failed = True

"""Who wants to know what the scheduler does: metrics and logs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from mtad.engine.session import Block
from mtad.server.scheduler.jobs import Job

Outcome = Literal["stop", "length", "cancelled", "deadline", "error", "closing"]


@dataclass(frozen=True)
class Load:
    """How busy the scheduler is.

    Attributes:
        num_waiting: jobs in the queue.
        num_joining: jobs whose prompt is being read.
        num_running: jobs in a batch.
        num_batches: batches, one per method with its options.
        slots_reserved: cache slots that jobs may come to need.
        slots_total: cache slots that may be reserved.
        is_alive: whether the thread runs and its last iteration was not too long ago.
        is_ready: whether jobs are taken.
    """

    num_waiting: int
    num_joining: int
    num_running: int
    num_batches: int
    slots_reserved: int
    slots_total: int
    is_alive: bool
    is_ready: bool


@runtime_checkable
class Watch(Protocol):
    """Told what happens, from the scheduler's thread; must return at once and not raise."""

    def admitted(self, job: Job) -> None:
        """A job has left the queue; its prompt is about to be read."""

    def iterated(self, blocks: list[tuple[Job, Block]], seconds: float) -> None:
        """One iteration of one batch."""

    def ended(self, job: Job, outcome: Outcome) -> None:
        """A job is over; its times are set."""

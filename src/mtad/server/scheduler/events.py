"""What the scheduler lets others see: events of sequences, and its load.

Knows no thread.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from mtad.server.scheduler.sequence import Chunk, Sequence


@runtime_checkable
class Observer(Protocol):
    """Sees events in their order, on the publisher's thread: decoding does not wait for it.

    Times of an event are in its sequence and chunks; the clock may be ahead of them. What an
    observer raises is logged once and harms no text.
    """

    def admitted(self, sequence: Sequence) -> None:
        """A sequence has left the queue; its prefill begins."""

    def decoded(self, chunks: Items[Chunk], seconds: float) -> None:
        """A batch has had an iteration: a chunk of each row; one with an error may lack tokens."""

    def ended(self, sequence: Sequence) -> None:
        """A sequence has ended; its `outcome`, `stats` and times are final."""


@dataclass(frozen=True)
class Load:
    """How busy the scheduler is.

    Attributes:
        num_waiting: sequences in the queue.
        num_prefilling: sequences in the prefill.
        num_running: sequences that decode.
        num_batches: batches, one per method with its options.
        slots_reserved: cache slots that sequences may come to need.
        slots_total: cache slots that may be reserved.
        is_alive: whether its threads run and its last step was not too long ago.
        is_ready: whether sequences are taken.
    """

    num_waiting: int
    num_prefilling: int
    num_running: int
    num_batches: int
    slots_reserved: int
    slots_total: int
    is_alive: bool
    is_ready: bool

"""Requests that wait for a row: as texts end, the next ones are prefilled into their places.

So a call of many prompts decodes as many at once as it may, nearly to its end. Knows no text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from mtad.api.measuring import Clock
from mtad.engine.request import Request, size_of
from mtad.engine.session import Session
from mtad.measure.device import synchronize
from mtad.model.prefix_cache import rounds

SHARE_FREE = 8
"""One row in so many has to be free for the next prefill, which takes about an iteration."""


@dataclass(frozen=True)
class Joined:
    """A request that has joined the session.

    Attributes:
        index: its place among all that were to join.
        prefill_s: seconds of the prefill that it was in.
        decode_s: seconds of the session's iterations before it.
        num_cached: tokens of its prompt that were found in the prefix cache.
    """

    index: int
    prefill_s: float
    decode_s: float
    num_cached: int


@dataclass
class Waiting:
    """Lets requests join a session, as many at once as it may have rows.

    Args:
        session: without requests so far.
        requests: all that will join.
        max_rows: of them, at once.
        clock: shows seconds.

    Attributes:
        joined: in the session's order: the request that the session knows as i is at i.

    Raises:
        CacheMemoryError: there is no memory for so many of the longest ones.
    """

    session: Session
    requests: Sequence[Request]
    max_rows: int
    clock: Clock
    joined: list[Joined] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Make the caches as large as they will have to be, so that they stay where they are."""
        session = self.session
        _, capacity = size_of(session.largest, self.requests, session.vocab)
        num_rows = min(self.max_rows, len(self.requests))
        session.workspace.reserve(session.lms, num_rows, capacity)

    @torch.inference_mode()
    def fill(self, decode_s: float = 0.0) -> Sequence[Joined]:
        """Prefill the next requests once enough rows are free; returns those that joined.

        Args:
            decode_s: seconds of the session's iterations so far.
        """
        first = len(self.joined)
        while num_joining := self._num_joining():
            start = len(self.joined)
            for group in self._groups(range(start, start + num_joining)):
                self._join(group, decode_s)
        return self.joined[first:]

    def _num_joining(self) -> int:
        """Requests that are to join now."""
        num_rows = len(self.session.rows)
        num_free, num_left = self.max_rows - num_rows, len(self.requests) - len(self.joined)
        is_due = num_rows == 0 or num_free * SHARE_FREE >= self.max_rows
        return min(num_free, num_left) if is_due else 0

    def _groups(self, places: Sequence[int]) -> list[list[int]]:
        """The requests in groups, so that later ones find what they share with earlier ones."""
        if not self.session.workspace.prefixes.max_bytes:
            return [[*places]]
        requests = [self.requests[i] for i in places]
        texts, salts = [r.text_ids for r in requests], [r.cache_salt for r in requests]
        groups = rounds(texts, self.session.target.num_found(texts, salts))
        return [[places[i] for i in group] for group in groups]

    def _join(self, group: Sequence[int], decode_s: float) -> None:
        session, began = self.session, self.clock()
        numbers = session.join([self.requests[i] for i in group])
        cached = session.cached
        while session.prefill_chunk():
            pass
        synchronize(session.target.device)  # else decoding would be charged for it
        seconds = self.clock() - began
        self.joined += [
            Joined(i, seconds, decode_s, cached.get(number, 0))
            for i, number in zip(group, numbers, strict=True)
        ]

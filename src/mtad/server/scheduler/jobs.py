"""What clients ask of the models and what they are told: jobs and their updates.

Knows no HTTP and no thread.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from mtad.api.completion import Completion
from mtad.engine.request import Request
from mtad.engine.session import Block
from mtad.errors import MtadError
from mtad.speculative.method import Method
from mtad.trace.writer import TokenLogprobs

Clock: TypeAlias = Callable[[], float]
_ids = itertools.count()


class QueueFullError(MtadError):
    """The queue is full.

    Attributes:
        retry_after_s: when it is worth while to try again.
    """

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineError(MtadError):
    """The time that a request may take is over."""


class ClosingError(MtadError):
    """The server is shutting down and takes no more requests, or could not finish one."""


class ModelFailedError(MtadError):
    """A model raised an error for one request alone."""


@dataclass(frozen=True)
class Work:
    """One text to complete, as the scheduler takes it.

    Attributes:
        request: prompt and sampling; its `stop` is set by the scheduler.
        method: how to decode.
        stops: the text ends before the first of these.
        num_logprobs: None for no log-probabilities, else how many of the most likely tokens are
            told beside each token of the text.
        traced: whether every iteration is told in full.
        timeout_s: seconds after which the job fails, from its arrival; None for no limit.
        client: whom it counts against; None for nobody.
        request_id: names it in logs and traces.
    """

    request: Request
    method: Method
    stops: tuple[str, ...] = ()
    num_logprobs: int | None = None
    traced: bool = False
    timeout_s: float | None = None
    client: str | None = None
    request_id: str = ""


@dataclass(frozen=True)
class Piece:
    """What one iteration added to a text.

    Attributes:
        text: new text; what a stop string could still cut off is held back until the last piece.
        block: the tokens, and how many of them are accepted drafts.
        logprobs: one per token of the block, if they were asked for.
        trace: the iteration in full, if that was asked for; see `mtad.trace.writer.record_of`.
    """

    text: str
    block: Block
    logprobs: tuple[TokenLogprobs, ...] = ()
    trace: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Done:
    """The end of a text.

    Attributes:
        completion: the whole.
        queue_s: seconds in the queue.
    """

    completion: Completion
    queue_s: float


@dataclass(frozen=True)
class Failed:
    """A job that came to nothing; the last update of it."""

    error: Exception


Update: TypeAlias = Piece | Done | Failed
Listener: TypeAlias = Callable[[Update], None]
"""Told every update, from the scheduler's thread; must return at once and not raise."""


@dataclass(eq=False)
class Job:
    """Work in the scheduler's hands.

    Attributes:
        work: what is to be done.
        listener: who is told.
        arrived_at, admitted_at, first_token_at, last_token_at, ended_at: times of the scheduler's
            clock; None where it has not come to that. The time in the queue ends at `admitted_at`.
        is_cancelled: nobody listens any more.
        id: counts up in order of arrival.
    """

    work: Work
    listener: Listener
    arrived_at: float = field(default_factory=time.monotonic)
    admitted_at: float | None = None
    first_token_at: float | None = None
    last_token_at: float | None = None
    ended_at: float | None = None
    is_cancelled: bool = False
    id: int = field(default_factory=lambda: next(_ids))

    @property
    def deadline(self) -> float:
        """The time at which it fails."""
        limit = self.work.timeout_s
        return float("inf") if limit is None else self.arrived_at + limit

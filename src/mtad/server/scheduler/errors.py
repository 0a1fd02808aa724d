"""What ends a text, or keeps it from being admitted.

MtadError
├── QueueFullError
├── DeadlineError
├── ClosingError
└── ModelFailedError
"""

from __future__ import annotations

from mtad.errors import MtadError


class QueueFullError(MtadError):
    """The queue is full.

    Attributes:
        retry_after_s: seconds after which a retry may succeed.
    """

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineError(MtadError):
    """The request took longer than it may."""


class ClosingError(MtadError):
    """The server is shutting down: it takes no more requests, or could not finish one."""


class ModelFailedError(MtadError):
    """A model failed for one request alone."""

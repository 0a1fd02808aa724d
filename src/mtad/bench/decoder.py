"""The interface of what decodes the jobs of a run.

Knows neither models nor files: `run` has the one for this process, `ray.pool` that of a cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

from mtad.bench.checks import Items
from mtad.bench.jobs import Job
from mtad.bench.plan import Recipe
from mtad.bench.sample import Sample


@runtime_checkable
class Decoder(Protocol):
    """Decodes the jobs of a run: in this process, or with a worker pool."""

    def check(self, items: Items) -> None:
        """Refuse items that do not fit the models."""

    def open(self, folder: Path) -> None:
        """Take the folder that the conditions of the rows are noted in.

        Raises:
            DataError: the folder has rows of another pair.
        """

    def expect(self, left: Sequence[Job], is_wanted: Callable[[Job], bool]) -> None:
        """Take the jobs of a stage, which are asked for in this order.

        Args:
            left: the jobs.
            is_wanted: whether a job still has to be decoded; once it has not, it never has again.
        """

    def samples(self, job: Job) -> list[Sample]:
        """The rows of a job, with their conditions noted; raises what decoding it raised."""


DecoderFactory: TypeAlias = Callable[[Recipe], AbstractContextManager[Decoder]]
"""Makes the decoder of a recipe, and releases its resources at the end of the run."""

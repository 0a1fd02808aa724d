"""The jobs of one request, and their updates on the event loop.

Knows no HTTP and no model.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import TypeAlias

from mtad.server.api.service import Decodes
from mtad.server.scheduler.jobs import Done, Failed, Piece, Update, Work

News: TypeAlias = tuple[int, Piece | Done]
"""Which job, and what is new."""


class Call:
    """The jobs of one request; to be made and used on the event loop.

    Args:
        scheduler: decodes.
        works: one per job.

    Raises:
        ValueError, MtadError: the scheduler refuses one of them, and so takes none.
    """

    def __init__(self, scheduler: Decodes, works: Sequence[Work]) -> None:
        self._scheduler = scheduler
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[tuple[int, Update]] = asyncio.Queue()
        listeners = [partial(self._tell, index) for index in range(len(works))]
        self.jobs = scheduler.submit(works, listeners)

    def _tell(self, index: int, update: Update) -> None:
        """Pass an update on from the scheduler's thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._queue.put_nowait, (index, update))

    async def updates(self, ping_s: float | None = None) -> AsyncIterator[News | None]:
        """What is new, until every job is done; None after each `ping_s` of silence.

        Raises:
            Exception: one of the jobs failed.
        """
        left = len(self.jobs)
        while left:
            try:
                async with asyncio.timeout(ping_s):
                    index, update = await self._queue.get()
            except TimeoutError:
                yield None
                continue
            if isinstance(update, Failed):
                raise update.error
            left -= isinstance(update, Done)
            yield index, update

    def cancel(self) -> None:
        """Forget all jobs; those that are done don't mind."""
        for job in self.jobs:
            self._scheduler.cancel(job)

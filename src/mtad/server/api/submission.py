"""The sequences of one request in the scheduler, and their chunks on the event loop.

Knows no HTTP and no model.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from collections.abc import Sequence as Items

from mtad.server.api.service import Decodes
from mtad.server.scheduler.sequence import Chunk, Sequence


class Submission:
    """The sequences of one request; to be made and used on the event loop.

    Args:
        scheduler: decodes.
        sequences: all of the request.
        form: the parameter that holds them to a form; None where none does.

    Raises:
        ValueError, MtadError: the scheduler refuses one of them, and so takes none.
    """

    def __init__(
        self, scheduler: Decodes, sequences: Items[Sequence], form: str | None = None
    ) -> None:
        self._scheduler, self.sequences, self.form = scheduler, sequences, form
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Chunk] = asyncio.Queue()
        for sequence in sequences:
            sequence.sink = self._take
        scheduler.submit(sequences)

    def _take(self, chunk: Chunk) -> None:
        """Pass a chunk on from the publisher's thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._queue.put_nowait, chunk)

    async def chunks(self, ping_s: float | None = None) -> AsyncIterator[Chunk | None]:
        """Chunks until every sequence has ended; None after each `ping_s` of silence.

        Raises:
            Exception: one of the sequences failed.
        """
        num_left = len(self.sequences)
        while num_left:
            try:
                async with asyncio.timeout(ping_s):
                    chunk = await self._queue.get()
            except TimeoutError:
                yield None
                continue
            if chunk.error is not None:
                raise chunk.error
            num_left -= chunk.is_last
            yield chunk

    def cancel(self) -> None:
        """Cancel all sequences; of no effect on those that have ended."""
        for sequence in self.sequences:
            if sequence.outcome is None:
                self._scheduler.cancel(sequence)

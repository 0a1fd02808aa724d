"""Streamed answers: server-sent events, one per iteration and choice.

Knows no model.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from mtad.server.api.answers import Answer
from mtad.server.api.calls import Call
from mtad.server.api.errors import of
from mtad.server.api.forms import Part
from mtad.server.api.replies import Chunk, Iteration
from mtad.server.scheduler.jobs import Done, Piece

PING_S = 15.0
"""Silence after which a comment is sent, so that nothing between takes the connection for dead."""

_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class EventStream(StreamingResponse):
    """The events of a request; its jobs end with it, whoever ends it.

    Args:
        answer: to be streamed.
        call: its jobs.
    """

    def __init__(self, answer: Answer, call: Call) -> None:
        super().__init__(events(answer, call), headers=_HEADERS, media_type="text/event-stream")
        self._call = call

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events until they end or the client leaves."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._call.cancel()


async def events(answer: Answer, call: Call) -> AsyncIterator[bytes]:
    """The events of an answer, ending in [DONE], or in an error and nothing after it."""
    stream = _Stream(answer)
    for chunk in stream.first():
        yield _event(chunk)
    try:
        async for news in call.updates(PING_S):
            if news is None:
                yield b": still here\n\n"
                continue
            for chunk in stream.take(*news):
                yield _event(chunk)
    except Exception as error:
        yield f"data: {of(error).body}\n\n".encode(errors="replace")
        return
    if stream.tells_usage:
        yield _event(stream.last([], answer.usage()))
    yield b"data: [DONE]\n\n"


def _event(chunk: Chunk) -> bytes:
    return f"data: {chunk.as_json()}\n\n".encode()


class _Stream:
    """An answer's chunks."""

    def __init__(self, answer: Answer) -> None:
        self.answer, self.body = answer, answer.order.body
        options = self.body.stream_options
        self.tells_usage = bool(options and options.include_usage)
        self._offsets = [0] * len(answer.results)

    def first(self) -> Iterator[Chunk]:
        """What comes before any token."""
        for index, result in enumerate(self.answer.results):
            delta = self.answer.form.first(index, result.echo)
            if delta is not None:
                yield self._chunk([delta])

    def take(self, index: int, update: Piece | Done) -> Iterator[Chunk]:
        """The chunks of what is new of a choice."""
        self.answer.take(index, update)
        if isinstance(update, Done):
            yield self._end(index)
            return
        told = self.answer.order.works[index].num_logprobs is not None
        part = Part(
            text=update.text,
            logprobs=update.logprobs if told else None,
            token_ids=update.block.token_ids if self.body.return_token_ids else None,
            offset=self._offsets[index],
        )
        texts = self.answer.service.texts
        self._offsets[index] += sum(len(texts.token(one.token)[0]) for one in update.logprobs)
        self.answer.results[index].logprobs.clear()  # told now, and not to be kept
        self.answer.results[index].traces.clear()
        more = {} if update.trace is None else {"mtad": Iteration(trace=dict(update.trace))}
        if part.text or part.logprobs or part.token_ids or more:
            yield self._chunk([self.answer.form.delta(index, part)], **more)

    def _end(self, index: int) -> Chunk:
        """The reason; the stream's last chunk tells the figures."""
        end = self.answer.form.delta(index, Part(reason=self.answer.results[index].reason))
        is_last = all(result.completion is not None for result in self.answer.results)
        return self.last([end]) if is_last and not self.tells_usage else self._chunk([end])

    def last(self, deltas: list[Any], usage: Any = None) -> Chunk:
        """The chunk that tells the figures."""
        more = {} if usage is None else {"usage": usage}
        told = {"metrics": self.answer.metrics(), "mtad": self.answer.contract()}
        return self._chunk(deltas, **told, **more)

    def _chunk(self, deltas: list[Any], **more: Any) -> Chunk:
        rest = {"usage": None} if self.tells_usage else {}
        return self.answer.form.chunk(deltas, self.answer.head | rest | more)

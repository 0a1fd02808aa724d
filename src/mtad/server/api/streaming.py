"""Streamed responses: server-sent events, one per iteration and choice.

Knows no model.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from mtad.server.api.errors import as_api_error
from mtad.server.api.response_models import BaseChunk, Iteration
from mtad.server.api.responses import ResponseBuilder
from mtad.server.api.submission import Submission
from mtad.server.scheduler.sequence import Chunk, Sequence

PING_S = 15.0
"""Silence after which a comment is sent, so that proxies do not close the connection."""

_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class EventStream(StreamingResponse):
    """The events of a request; its sequences end with it, whoever ends it.

    Args:
        builder: of the response.
        submission: its sequences.
    """

    def __init__(self, builder: ResponseBuilder, submission: Submission) -> None:
        content = events(builder, submission)
        super().__init__(content, headers=_HEADERS, media_type="text/event-stream")
        self._submission = submission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events until they end or the client leaves."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._submission.cancel()


async def events(builder: ResponseBuilder, submission: Submission) -> AsyncIterator[bytes]:
    """The events of a response, ending in [DONE], or in an error and nothing after it."""
    stream = _Stream(builder)
    for event in stream.first():
        yield _data(event)
    try:
        async for chunk in submission.chunks(PING_S):
            if chunk is None:
                yield b": still here\n\n"
                continue
            for event in stream.events(chunk):
                yield _data(event)
    except Exception as error:
        yield f"data: {as_api_error(error).body}\n\n".encode(errors="replace")
        return
    if stream.has_usage:
        yield _data(stream.last([], usage=builder.usage()))
    yield b"data: [DONE]\n\n"


def _data(event: BaseChunk) -> bytes:
    return f"data: {event.as_json()}\n\n".encode()


class _Stream:
    """The events of a response."""

    def __init__(self, builder: ResponseBuilder) -> None:
        self._builder, self._format = builder, builder.format
        options = builder.parsed.body.stream_options
        self.has_usage = bool(options and options.include_usage)
        self._counts = bool(options and options.continuous_usage_stats)
        self._num_tokens, self._unscored = 0, set[int]()
        self._num_left = len(builder.parsed.sequences)

    def first(self) -> Iterator[BaseChunk]:
        """What comes before any token."""
        for sequence in self._builder.parsed.sequences:
            if sequence.scores_prompt:
                self._unscored.add(sequence.index)
            else:
                yield from self._first(sequence)

    def _first(self, sequence: Sequence) -> Iterator[BaseChunk]:
        """What comes before a choice's tokens."""
        delta = self._format.first(sequence, self._builder.parsed.echoes[sequence.index])
        if delta is not None:
            yield self._event([delta])

    def events(self, chunk: Chunk) -> Iterator[BaseChunk]:
        """The events of a chunk; the reason of an end has one of its own."""
        index = chunk.sequence.index
        if index in self._unscored:  # its prompt has been prefilled by now
            self._unscored.remove(index)
            yield from self._first(chunk.sequence)
        self._num_tokens += len(chunk.token_ids)
        delta = self._format.delta(chunk, len(self._builder.parsed.echoes[index].text))
        more = {"mtad": Iteration(trace=dict(chunk.trace[0]))} if chunk.trace else {}
        if chunk.text or chunk.logprobs or delta.token_ids or more:
            yield self._event([delta], **more)
        if chunk.finish_reason:
            self._num_left -= 1
            end = [self._format.last(index, chunk.finish_reason)]
            is_last = not self._num_left and not self.has_usage
            yield self.last(end) if is_last else self._event(end)

    def last(self, deltas: list[Any], **more: Any) -> BaseChunk:
        """The event that has metrics and contract."""
        builder = self._builder
        return self._event(deltas, metrics=builder.metrics(), mtad=builder.contract(), **more)

    def _event(self, deltas: list[Any], **more: Any) -> BaseChunk:
        rest: dict[str, Any] = {"usage": None} if self.has_usage else {}
        if self._counts:
            rest = {"usage": self._builder.usage(self._num_tokens)}
        return self._format.event(deltas, self._builder.head | rest | more)

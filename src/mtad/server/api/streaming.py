"""Streamed responses: server-sent events, one per iteration and choice.

Knows no model.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, Protocol

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from mtad.server.api.errors import as_api_error
from mtad.server.api.response_models import BaseChunk, Iteration
from mtad.server.api.responses import ResponseBuilder
from mtad.server.api.submission import Submission
from mtad.server.http.errors import ApiError
from mtad.server.scheduler.sequence import Chunk, Sequence

PING_S = 15.0
"""Silence after which a comment is sent, so that proxies do not close the connection."""

_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class Source(Protocol):
    """The events of one response, as bytes, in the format of its route."""

    def first(self) -> Iterator[bytes]:
        """What comes before any token."""

    def more(self, chunk: Chunk) -> Iterator[bytes]:
        """What a chunk brings."""

    def last(self) -> Iterator[bytes]:
        """What comes after all chunks."""

    def failed(self, error: ApiError) -> Iterator[bytes]:
        """What ends it early; nothing comes after it."""


class EventStream(StreamingResponse):
    """The events of a request; its sequences end with it, whoever ends it.

    Args:
        source: of the events.
        submission: the request's sequences.
    """

    def __init__(self, source: Source, submission: Submission) -> None:
        content = events(source, submission)
        super().__init__(content, headers=_HEADERS, media_type="text/event-stream")
        self._submission = submission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events until they end or the client leaves."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._submission.cancel()


async def events(source: Source, submission: Submission) -> AsyncIterator[bytes]:
    """The events of a response."""
    for event in source.first():
        yield event
    try:
        async for chunk in submission.chunks(PING_S):
            if chunk is None:
                yield b": still here\n\n"
                continue
            for event in source.more(chunk):
                yield event
    except Exception as error:
        for event in source.failed(as_api_error(error, submission.form)):
            yield event
        return
    for event in source.last():
        yield event


class ChunkEvents:
    """Chats and completions as bytes: chunks that end in [DONE], or in an error.

    Args:
        builder: of the response.
    """

    def __init__(self, builder: ResponseBuilder) -> None:
        self._stream = ChunkStream(builder)

    def first(self) -> Iterator[bytes]:
        """What comes before any token."""
        yield from map(_data, self._stream.first())

    def more(self, chunk: Chunk) -> Iterator[bytes]:
        """What a chunk brings."""
        yield from map(_data, self._stream.events(chunk))

    def last(self) -> Iterator[bytes]:
        """The usage, if it was asked for, and the end."""
        yield from map(_data, self._stream.usage())
        yield b"data: [DONE]\n\n"

    def failed(self, error: ApiError) -> Iterator[bytes]:
        """The error alone."""
        yield f"data: {error.body}\n\n".encode(errors="replace")


def _data(event: BaseChunk) -> bytes:
    return f"data: {event.as_json()}\n\n".encode()


class ChunkStream:
    """The events of a chat or of completions.

    Args:
        builder: of the response.
    """

    def __init__(self, builder: ResponseBuilder) -> None:
        self._builder, self._format = builder, builder.format
        options = builder.parsed.body.stream_options
        self._has_usage = bool(options and options.include_usage)
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
        deltas = self._format.deltas(chunk, len(self._builder.parsed.echoes[index].text))
        more = {"mtad": Iteration(trace=dict(chunk.trace[0]))} if chunk.trace else {}
        for place, delta in enumerate(deltas):
            own = more if place == 0 else {}
            if not delta.is_empty or own or (place == 0 and chunk.logprobs):
                yield self._event([delta], **own)
        if chunk.finish_reason:
            self._num_left -= 1
            *left, end = self._format.ends(index, chunk.finish_reason)
            for delta in left:
                yield self._event([delta])
            is_last = not self._num_left and not self._has_usage
            yield self._last([end]) if is_last else self._event([end])

    def usage(self) -> Iterator[BaseChunk]:
        """The last event, if the usage was asked for."""
        if self._has_usage:
            yield self._last([], usage=self._builder.usage())

    def _last(self, deltas: list[Any], **more: Any) -> BaseChunk:
        """The event that has metrics and contract."""
        builder = self._builder
        return self._event(deltas, metrics=builder.metrics(), mtad=builder.contract(), **more)

    def _event(self, deltas: list[Any], **more: Any) -> BaseChunk:
        rest: dict[str, Any] = {"usage": None} if self._has_usage else {}
        if self._counts:
            rest = {"usage": self._builder.usage(self._num_tokens)}
        return self._format.event(deltas, self._builder.head | rest | more)

"""One response, event by event, from its chat's chunks.

Knows no scheduler and no HTTP.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from typing import Any, Literal

from mtad.server.api.parsing import ParsedRequest
from mtad.server.api.response_models import ErrorReply, Iteration
from mtad.server.api.responses import ResponseBuilder
from mtad.server.api.responses_api.building import begun, metrics_of, token_usage
from mtad.server.api.responses_api.chats import Asked
from mtad.server.api.responses_api.events import ErrorEvent, Event, StatusEvent
from mtad.server.api.responses_api.objects import Failure, Incomplete, ResponseObject
from mtad.server.api.responses_api.output import Output
from mtad.server.api.responses_api.stored import StoredResponse, StoredResponses
from mtad.server.api.service import Service
from mtad.server.api.streaming import ChunkStream
from mtad.server.http.errors import ApiError
from mtad.server.scheduler.sequence import Chunk


class Reply:
    """The response to a request; whoever wants it whole drops its events.

    Args:
        service: what all routes share.
        asked: the request.
        parsed: its chat.
        stored: where it is kept once it has ended.

    Attributes:
        response: as it is now.
    """

    def __init__(
        self, service: Service, asked: Asked, parsed: ParsedRequest, stored: StoredResponses
    ) -> None:
        self._asked, self._parsed, self._stored = asked, parsed, stored
        self._chat = ResponseBuilder(service, parsed)
        self._stream = ChunkStream(self._chat)
        name, keeps = uuid.uuid4().hex, asked.body.store is not False and stored.max_responses > 0
        self._output = Output(name)
        self._traces, self._token_ids = list[dict[str, Any]](), list[int]()
        self._is_whole = True
        self.response: ResponseObject = begun(f"resp_{name}", self._chat, asked.body, keeps)

    def first(self) -> Iterator[Event]:
        """The response without output."""
        yield self._event("response.created")
        yield self._event("response.in_progress")

    def more(self, chunk: Chunk) -> Iterator[Event]:
        """What a chunk brings."""
        for event in self._stream.events(chunk):
            if isinstance(event.mtad, Iteration):
                self._traces.append(event.mtad.trace)
            for delta in getattr(event, "choices", ()):
                self._token_ids += delta.token_ids
                self._is_whole = delta.finish_reason != "length"
                yield from self._output.take(delta)

    def last(self) -> Iterator[Event]:
        """The end of the output, and the whole response, which is kept from then on."""
        if self._is_whole:
            yield from self._output.end("completed")
            self._end("completed")
            yield self._event("response.completed")
        else:
            yield from self._output.end("incomplete")
            self._end("incomplete", incomplete_details=Incomplete(reason="max_output_tokens"))
            yield self._event("response.incomplete")

    def _end(self, status: Literal["completed", "incomplete"], **more: Any) -> None:
        """Complete the response and keep it."""
        body = self._parsed.body
        traces = [self._traces] if body.trace else None
        more |= {"token_ids": self._token_ids} if body.return_token_ids else {}
        self._become(
            status=status,
            completed_at=int(time.time()),
            usage=token_usage(self._chat.usage()),
            metrics=metrics_of(self._chat, self._asked.body, self.response),
            mtad=self._chat.contract(traces),
            **more,
        )
        if self.response.store:
            one = StoredResponse(self.response, self._asked.conversation)
            if not self._stored.keep(self._parsed.sequences[0].client, one):
                self._become(store=False)

    def failed(self, error: ApiError) -> Iterator[Event]:
        """The response as far as it came, and the error."""
        yield from self._output.close("incomplete")
        detail = ErrorReply.model_validate_json(error.body).error
        failure = Failure(code="server_error", message=detail.message)
        self._become(status="failed", error=failure, store=False)
        yield self._event("response.failed")
        yield ErrorEvent(
            type="error",
            sequence_number=next(self._output.numbers),
            code=detail.code,
            message=detail.message,
            param=detail.param,
            error=detail,
        )

    def _become(self, **changes: Any) -> None:
        """Change the response; events that were made before keep it as it was."""
        self.response = self.response.model_copy(update={"output": self._output.items, **changes})

    def _event(
        self,
        kind: Literal[
            "response.created",
            "response.in_progress",
            "response.completed",
            "response.incomplete",
            "response.failed",
        ],
    ) -> StatusEvent:
        number = next(self._output.numbers)
        return StatusEvent(type=kind, sequence_number=number, response=self.response)


class ReplyEvents:
    """The events of a response as bytes.

    Args:
        reply: that makes them.
    """

    def __init__(self, reply: Reply) -> None:
        self._reply = reply

    def first(self) -> Iterator[bytes]:
        """What comes before any token."""
        yield from map(_data, self._reply.first())

    def more(self, chunk: Chunk) -> Iterator[bytes]:
        """What a chunk brings."""
        yield from map(_data, self._reply.more(chunk))

    def last(self) -> Iterator[bytes]:
        """What comes after all chunks."""
        yield from map(_data, self._reply.last())

    def failed(self, error: ApiError) -> Iterator[bytes]:
        """The failed response, then the error."""
        yield from map(_data, self._reply.failed(error))


def _data(event: Event) -> bytes:
    return f"event: {event.type}\ndata: {event.as_json()}\n\n".encode()

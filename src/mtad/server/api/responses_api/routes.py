"""The routes of responses: made, found again and forgotten.

Knows neither keys nor limits of bodies: those guards stand in front of it.
"""

from __future__ import annotations

from collections.abc import Iterator

from fastapi import Request
from starlette.responses import Response

from mtad.server.api.bodies import json_of, read_body
from mtad.server.api.parsing import ParsedRequest
from mtad.server.api.responses_api.chats import Asked, asked, renamed
from mtad.server.api.responses_api.events import Event
from mtad.server.api.responses_api.input_items import listed
from mtad.server.api.responses_api.objects import Deleted
from mtad.server.api.responses_api.reply import Reply, ReplyEvents
from mtad.server.api.responses_api.requests import ResponsesRequest
from mtad.server.api.responses_api.stored import StoredResponses
from mtad.server.api.running import finished, parsed_off_loop, submit
from mtad.server.api.service import Service
from mtad.server.api.streaming import EventStream
from mtad.server.api.submission import Submission
from mtad.server.http.errors import ApiError


class ResponsesApi:
    """The routes' functions, and what is stored for them.

    Args:
        service: what all routes share.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._stored = StoredResponses(service.settings.max_stored_responses)

    async def create(self, request: Request) -> Response:
        """Answer a conversation; as server-sent events with `stream`."""
        body = await read_body(request, ResponsesRequest)
        given = asked(body, self._stored, _client(request))
        try:
            parsed, submission = await self._begin(given, request)
        except ApiError as error:
            raise renamed(error) from error
        reply = Reply(self._service, given, parsed, self._stored)
        if body.stream:
            return EventStream(ReplyEvents(reply), submission)
        for chunk in (await finished(submission, request))[0]:
            _drop(reply.more(chunk))
        _drop(reply.last())
        return json_of(reply.response)

    async def _begin(self, given: Asked, request: Request) -> tuple[ParsedRequest, Submission]:
        """The chat's text is queued."""
        parsed = await parsed_off_loop(self._service, given.chat, request)
        return parsed, submit(self._service.scheduler, parsed, request)

    async def retrieve(self, response_id: str, request: Request) -> Response:
        """A stored response of the same client."""
        if request.query_params.get("stream") == "true":
            raise ApiError(400, "stream: what is stored comes in one piece; leave it out", "stream")
        return json_of(self._stored.get(_client(request), response_id, "response_id").response)

    async def input_items(self, response_id: str, request: Request) -> Response:
        """The items that led to a stored response of the same client."""
        stored = self._stored.get(_client(request), response_id, "response_id")
        return json_of(listed(stored, request.query_params))

    async def delete(self, response_id: str, request: Request) -> Response:
        """Forget a stored response of the same client."""
        self._stored.drop(_client(request), response_id, "response_id")
        return json_of(Deleted(id=response_id, object="response", deleted=True))


def _client(request: Request) -> str | None:
    """The name of the key's owner; None without keys."""
    client: str | None = getattr(request.state, "client", None)
    return client


def _drop(events: Iterator[Event]) -> None:
    """Make events that are not sent."""
    for _ in events:
        continue

"""Responses that are kept in memory, so that a conversation can go on from them.

Knows no HTTP beyond the errors that clients get; to be used on the event loop alone.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property

from mtad.server.api.responses_api.objects import OutputItem, ResponseObject
from mtad.server.api.responses_api.requests import (
    CallItem,
    Item,
    MessageItem,
    OutputText,
    ReasoningItem,
    ReasoningText,
)
from mtad.server.http.errors import ApiError

MAX_BYTES = 64 * 2**20
"""Of all that is kept, as JSON."""

_ITEM = re.compile(r"(?:msg|fc|rs)_([0-9a-f]{32})_([0-9]{1,6})")


@dataclass(frozen=True)
class StoredResponse:
    """A response with what led to it.

    Attributes:
        response: as it was answered.
        conversation: all items up to it; its own are in the response.
    """

    response: ResponseObject
    conversation: tuple[Item, ...]

    @property
    def items(self) -> tuple[Item, ...]:
        """All items up to the end of the response."""
        return (*self.conversation, *map(as_input, self.response.output))

    @cached_property
    def num_bytes(self) -> int:
        """Its size as JSON; what a conversation shares with earlier ones counts once more."""
        texts = (one.model_dump_json() for one in (self.response, *self.conversation))
        return sum(len(text.encode()) for text in texts)


class StoredResponses:
    """The responses used last, within a number and a number of bytes; each client has its own.

    Args:
        max_responses: kept at most; 0 keeps none.
        max_bytes: as JSON.
    """

    def __init__(self, max_responses: int, max_bytes: int = MAX_BYTES) -> None:
        self.max_responses, self._max_bytes = max_responses, max_bytes
        self._kept: OrderedDict[tuple[str | None, str], StoredResponse] = OrderedDict()
        self._num_bytes = 0

    def __contains__(self, key: tuple[str | None, str]) -> bool:
        """Whether the client's response of this id is kept."""
        return key in self._kept

    def keep(self, client: str | None, one: StoredResponse) -> bool:
        """Keep a response for the client; those that were not used for longest leave for it.

        Returns:
            Whether it is kept; one that alone is too large is not.
        """
        if self.max_responses == 0 or one.num_bytes > self._max_bytes:
            return False
        self._kept[client, one.response.id] = one
        self._num_bytes += one.num_bytes
        while len(self._kept) > self.max_responses or self._num_bytes > self._max_bytes:
            self._num_bytes -= self._kept.popitem(last=False)[1].num_bytes
        return True

    def get(
        self, client: str | None, name: str, param: str, code: str = "not_found"
    ) -> StoredResponse:
        """The client's response of this id.

        Args:
            client: who asks.
            name: the response's id.
            param: that names it, for errors.
            code: of the error.

        Raises:
            ApiError: there is none; status 404.
        """
        if (client, name) not in self:
            raise ApiError(404, f"{param}: {self._missing(name)}", param, code)
        self._kept.move_to_end((client, name))
        return self._kept[client, name]

    def item(self, client: str | None, name: str, param: str) -> Item:
        """The item of this id in one of the client's responses.

        Raises:
            ApiError: there is none; status 404.
        """
        found = _ITEM.fullmatch(name)
        if found is not None and (client, response := f"resp_{found[1]}") in self:
            for one in self.get(client, response, param).response.output:
                if one.id == name:
                    return as_input(one)
        message = f"{param}: {self._missing(name)}"
        raise ApiError(404, message, param, "not_found")

    def drop(self, client: str | None, name: str, param: str) -> None:
        """Forget the client's response of this id.

        Raises:
            ApiError: there is none; status 404.
        """
        self._num_bytes -= self.get(client, name, param).num_bytes
        del self._kept[client, name]

    def _missing(self, name: str) -> str:
        if self.max_responses == 0:
            return "this server keeps no responses; send the whole conversation as input"
        return (
            f"there is no {name!r} here: it was not stored, was deleted, or left for newer ones "
            f"(the last {self.max_responses} are kept); send the whole conversation as input"
        )


def as_input(item: OutputItem) -> Item:
    """An item of a response as requests have it."""
    if item.type == "function_call":
        return CallItem(
            type="function_call",
            call_id=item.call_id,
            name=item.name,
            arguments=item.arguments,
            id=item.id,
        )
    text = "".join(part.text for part in item.content)
    if item.type == "reasoning":
        thoughts = [ReasoningText(type="reasoning_text", text=text)]
        return ReasoningItem(type="reasoning", id=item.id, content=thoughts)
    parts = [OutputText(type="output_text", text=text)]
    return MessageItem(role="assistant", content=list(parts), type="message", id=item.id)

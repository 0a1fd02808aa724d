"""The items of a response and their events, as a chat's deltas bring them.

Knows no request.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

from mtad.server.api.response_models import ChatDelta, TokenLogprob, TopLogprob
from mtad.server.api.responses_api.events import Event
from mtad.server.api.responses_api.objects import Logprob, OutputItem, Top
from mtad.server.api.responses_api.open_items import OpenCall, OpenItem, OpenMessage, OpenReasoning
from mtad.server.api.responses_api.requests import Status


class Output:
    """The items of a response, of which the last may be open.

    Args:
        name: of the response; the ids of its items are made of it.

    Attributes:
        items: those that are whole.
        numbers: of the response's events.
    """

    def __init__(self, name: str) -> None:
        self.items: list[OutputItem] = []
        self.numbers = itertools.count()
        self._name = name
        self._open: OpenItem | None = None
        self._logprobs = list[Logprob]()

    def take(self, delta: ChatDelta) -> Iterator[Event]:
        """The events of a chat's delta.

        Log-probabilities of tokens whose text is held back come with the text; those of thinking
        and of calls have no place.
        """
        said = delta.delta
        self._logprobs += map(_logprob, delta.logprobs.content if delta.logprobs else ())
        if said.reasoning_content:
            yield from self._say(OpenReasoning, "rs", said.reasoning_content)
        if said.content:
            yield from self._say(OpenMessage, "msg", said.content)
        for call in said.tool_calls:
            self._logprobs.clear()
            if call.function.name:
                yield from self._begin(OpenCall, "fc", call.id, call.function.name)
            if call.function.arguments:
                assert isinstance(self._open, OpenCall)
                yield from self._open.more(call.function.arguments)

    def end(self, status: Status) -> Iterator[Event]:
        """The end of the last item; a response that has none gets an empty message."""
        is_empty = self._open is None and not self.items
        if is_empty or (self._logprobs and isinstance(self._open, OpenMessage)):
            yield from self._say(OpenMessage, "msg", "")
        yield from self.close(status)

    def close(self, status: Status = "completed") -> Iterator[Event]:
        """The end of the item that is open, if one is."""
        if self._open is not None:
            yield from self._open.end(status)
            self.items.append(self._open.item(status))
            self._open = None

    def _say(
        self, kind: type[OpenMessage] | type[OpenReasoning], prefix: str, text: str
    ) -> Iterator[Event]:
        """What is new of a text, in a new item unless one of this kind is open."""
        if not isinstance(self._open, kind):
            yield from self._begin(kind, prefix)
        assert self._open is not None
        logprobs, self._logprobs = self._logprobs, []
        yield from self._open.more(text, logprobs)

    def _begin(self, kind: Callable[..., OpenItem], prefix: str, *more: Any) -> Iterator[Event]:
        """A new item after the one that is open."""
        yield from self.close()
        index = len(self.items)
        self._open = kind(f"{prefix}_{self._name}_{index}", index, self.numbers, *more)
        yield from self._open.begin()


def _logprob(one: TokenLogprob) -> Logprob:
    return Logprob(**_top(one), top_logprobs=[Top(**_top(top)) for top in one.top_logprobs])


def _top(one: TopLogprob) -> dict[str, Any]:
    return {"token": one.token, "logprob": one.logprob, "bytes": one.bytes or []}

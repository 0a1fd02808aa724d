"""Items of a response that are being made: a message, thinking, a call.

Knows no chat.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

from mtad.server.api.responses_api.events import (
    ArgumentsDelta,
    ArgumentsDone,
    Event,
    ItemEvent,
    OutputTextDelta,
    OutputTextDone,
    PartEvent,
    ReasoningDelta,
    ReasoningDone,
)
from mtad.server.api.responses_api.objects import (
    Logprob,
    OutputCall,
    OutputItem,
    OutputMessage,
    OutputReasoning,
    OutputTextPart,
    ReasoningPart,
)
from mtad.server.api.responses_api.requests import Status


class OpenItem(ABC):
    """An item that is being made.

    Args:
        name: its id.
        index: among the items of its response.
        numbers: of the response's events.
    """

    def __init__(self, name: str, index: int, numbers: Iterator[int]) -> None:
        self._name, self._index, self._numbers = name, index, numbers
        self._texts = list[str]()

    @property
    def text(self) -> str:
        """What it says so far."""
        return "".join(self._texts)

    def begin(self) -> Iterator[Event]:
        """The events that come before all it says."""
        item = self.item("in_progress")
        yield ItemEvent(type="response.output_item.added", item=item, **self.place())

    @abstractmethod
    def more(self, text: str, logprobs: Sequence[Logprob] = ()) -> Iterator[Event]:
        """The events of what is new."""

    def end(self, status: Status) -> Iterator[Event]:
        """The events that come after all it says."""
        item = self.item(status)
        yield ItemEvent(type="response.output_item.done", item=item, **self.place())

    @abstractmethod
    def item(self, status: Status) -> OutputItem:
        """The item as it is now; one in progress has nothing in it."""

    def place(self, **more: Any) -> dict[str, Any]:
        """The number of an event, and where it belongs."""
        return {"sequence_number": next(self._numbers), "output_index": self._index} | more


class _WithPart(OpenItem):
    """An item that has one part."""

    @abstractmethod
    def part(self) -> OutputTextPart | ReasoningPart:
        """The part as it is now."""

    def begin(self) -> Iterator[Event]:
        """The item, then its part."""
        yield from super().begin()
        yield PartEvent(type="response.content_part.added", part=self.part(), **self.in_part())

    def end(self, status: Status) -> Iterator[Event]:
        """The part, then the item."""
        yield PartEvent(type="response.content_part.done", part=self.part(), **self.in_part())
        yield from super().end(status)

    def in_part(self) -> dict[str, Any]:
        """As `place`, for events of the part."""
        return self.place(item_id=self._name, content_index=0)


class OpenMessage(_WithPart):
    """A message."""

    def __init__(self, name: str, index: int, numbers: Iterator[int]) -> None:
        super().__init__(name, index, numbers)
        self._logprobs = list[Logprob]()

    def more(self, text: str, logprobs: Sequence[Logprob] = ()) -> Iterator[Event]:
        """The new text."""
        self._texts.append(text)
        self._logprobs += logprobs
        new: dict[str, Any] = {"delta": text, "logprobs": list(logprobs)}
        yield OutputTextDelta(type="response.output_text.delta", **new, **self.in_part())

    def end(self, status: Status) -> Iterator[Event]:
        """The text, then part and item."""
        part = self.part()
        whole: dict[str, Any] = {"text": part.text, "logprobs": part.logprobs}
        yield OutputTextDone(type="response.output_text.done", **whole, **self.in_part())
        yield from super().end(status)

    def item(self, status: Status) -> OutputMessage:
        """The message."""
        parts = [] if status == "in_progress" else [self.part()]
        return OutputMessage(
            type="message", id=self._name, role="assistant", status=status, content=parts
        )

    def part(self) -> OutputTextPart:
        """The text with its log-probabilities."""
        return OutputTextPart(
            type="output_text", text=self.text, annotations=[], logprobs=list(self._logprobs)
        )


class OpenReasoning(_WithPart):
    """What the model thinks."""

    def more(self, text: str, logprobs: Sequence[Logprob] = ()) -> Iterator[Event]:
        """The new text."""
        self._texts.append(text)
        yield ReasoningDelta(type="response.reasoning_text.delta", delta=text, **self.in_part())

    def end(self, status: Status) -> Iterator[Event]:
        """The text, then part and item."""
        yield ReasoningDone(type="response.reasoning_text.done", text=self.text, **self.in_part())
        yield from super().end(status)

    def item(self, status: Status) -> OutputReasoning:
        """The thinking."""
        parts = [] if status == "in_progress" else [self.part()]
        return OutputReasoning(
            type="reasoning", id=self._name, status=status, summary=[], content=parts
        )

    def part(self) -> ReasoningPart:
        """The text."""
        return ReasoningPart(type="reasoning_text", text=self.text)


class OpenCall(OpenItem):
    """A call of a function.

    Args:
        name, index, numbers: as for every item.
        call_id: of the call.
        function: its name.
    """

    def __init__(
        self, name: str, index: int, numbers: Iterator[int], call_id: str, function: str
    ) -> None:
        super().__init__(name, index, numbers)
        self._call_id, self._function = call_id, function

    def more(self, text: str, logprobs: Sequence[Logprob] = ()) -> Iterator[Event]:
        """The new part of the arguments."""
        self._texts.append(text)
        kind = self.place(item_id=self._name)
        yield ArgumentsDelta(type="response.function_call_arguments.delta", delta=text, **kind)

    def end(self, status: Status) -> Iterator[Event]:
        """The arguments, then the item."""
        yield ArgumentsDone(
            type="response.function_call_arguments.done",
            name=self._function,
            arguments=self.text,
            **self.place(item_id=self._name),
        )
        yield from super().end(status)

    def item(self, status: Status) -> OutputCall:
        """The call."""
        return OutputCall(
            type="function_call",
            id=self._name,
            call_id=self._call_id,
            name=self._function,
            arguments=self.text,
            status=status,
        )

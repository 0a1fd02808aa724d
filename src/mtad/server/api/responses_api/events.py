"""The events of a streamed response, in OpenAI's shapes.

Knows no chat.
"""

from __future__ import annotations

from typing import Literal

from mtad.server.api.call_models import ResponseModel
from mtad.server.api.response_models import ErrorDetail
from mtad.server.api.responses_api.objects import (
    Logprob,
    OutputItem,
    OutputTextPart,
    ReasoningPart,
    ResponseObject,
)


class Event(ResponseModel):
    """Base of all events, which are numbered from 0."""

    type: str
    sequence_number: int


class StatusEvent(Event):
    """The response as it is now."""

    type: Literal[
        "response.created",
        "response.in_progress",
        "response.completed",
        "response.incomplete",
        "response.failed",
    ]
    response: ResponseObject


class ItemEvent(Event):
    """An item begins or is whole."""

    type: Literal["response.output_item.added", "response.output_item.done"]
    output_index: int
    item: OutputItem


class _InItem(Event):
    item_id: str
    output_index: int


class PartEvent(_InItem):
    """A part of an item begins or is whole."""

    type: Literal["response.content_part.added", "response.content_part.done"]
    content_index: int
    part: OutputTextPart | ReasoningPart


class OutputTextDelta(_InItem):
    """What is new of a text."""

    type: Literal["response.output_text.delta"]
    content_index: int
    delta: str
    logprobs: list[Logprob]


class OutputTextDone(_InItem):
    """A text as a whole."""

    type: Literal["response.output_text.done"]
    content_index: int
    text: str
    logprobs: list[Logprob]


class ReasoningDelta(_InItem):
    """What is new of the thinking."""

    type: Literal["response.reasoning_text.delta"]
    content_index: int
    delta: str


class ReasoningDone(_InItem):
    """The thinking as a whole."""

    type: Literal["response.reasoning_text.done"]
    content_index: int
    text: str


class ArgumentsDelta(_InItem):
    """What is new of a call's arguments."""

    type: Literal["response.function_call_arguments.delta"]
    delta: str


class ArgumentsDone(_InItem):
    """A call's arguments as a whole."""

    type: Literal["response.function_call_arguments.done"]
    name: str
    arguments: str


class ErrorEvent(Event):
    """Why a stream ends early; `error` has it once more, in the shape of all errors."""

    type: Literal["error"]
    code: str | None
    message: str
    param: str | None
    error: ErrorDetail


EVENTS: tuple[type[Event], ...] = (
    *(StatusEvent, ItemEvent, PartEvent, OutputTextDelta, OutputTextDone),
    *(ReasoningDelta, ReasoningDone, ArgumentsDelta, ArgumentsDone, ErrorEvent),
)
"""All that a stream may have."""

"""From a request for a response to the chat that answers it, and back for errors.

Knows no HTTP beyond the errors that clients get, and decodes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from mtad.server.api.errors import invalid
from mtad.server.api.request_models import ChatRequest, Decoding
from mtad.server.api.responses_api.requests import (
    CallItem,
    CallOutputItem,
    Item,
    MessageItem,
    ReasoningItem,
    ReferenceItem,
    Refusal,
    ResponsesRequest,
)
from mtad.server.api.responses_api.stored import StoredResponses
from mtad.server.http.errors import ApiError

_SHARED = sorted(
    {*Decoding.model_fields, "add_generation_prompt", "chat_template_kwargs"}
    | {"parallel_tool_calls", "top_logprobs"}
)
"""Fields that chats have under the same name with the same meaning."""
_OWN = {"max_tokens", "metadata", "n", "store", "stream_options"}
"""Those of them that mean something else, or are not for chats."""


@dataclass(frozen=True)
class Asked:
    """What a request asks for.

    Attributes:
        body: the request.
        conversation: all items up to now, those of earlier responses too.
        chat: that answers it.
    """

    body: ResponsesRequest
    conversation: tuple[Item, ...]
    chat: ChatRequest


def asked(body: ResponsesRequest, stored: StoredResponses, client: str | None) -> Asked:
    """What a request asks for.

    Raises:
        ApiError: a stored response is gone, or the chat cannot be honoured.
    """
    conversation = _conversation(body, stored, client)
    data = _chat(body, conversation)
    try:
        return Asked(body, conversation, ChatRequest.model_validate(data))
    except ValidationError as error:
        raise renamed(invalid(error, data, ChatRequest)) from None


def _conversation(
    body: ResponsesRequest, stored: StoredResponses, client: str | None
) -> tuple[Item, ...]:
    """The items of earlier responses and then the request's, references resolved."""
    before: tuple[Item, ...] = ()
    if body.previous_response_id is not None:
        where = ("previous_response_id", "previous_response_not_found")
        before = stored.get(client, body.previous_response_id, *where).items
    if isinstance(body.input, str):
        return (*before, MessageItem(role="user", content=body.input))
    given = (
        stored.item(client, item.id, f"input[{index}].id")
        if isinstance(item, ReferenceItem)
        else item
        for index, item in enumerate(body.input)
    )
    return (*before, *given)


def _chat(body: ResponsesRequest, conversation: Iterable[Item]) -> dict[str, Any]:
    """The chat's body."""
    given = body.model_dump(exclude={"input"}, exclude_unset=True, by_alias=True)
    data = {name: given[name] for name in _SHARED if name in given and name not in _OWN}
    data["messages"] = messages_of(body.instructions, conversation)
    data["max_completion_tokens"] = body.max_output_tokens
    if body.top_logprobs or "message.output_text.logprobs" in (body.include or ()):
        data["logprobs"] = True
    text = given.get("text") or {}
    data["response_format"] = _format(text["format"]) if text.get("format") else None
    data["verbosity"] = text.get("verbosity")
    if body.reasoning is not None:
        data["reasoning_effort"] = body.reasoning.effort
    data["tools"] = [_function(tool) for tool in given.get("tools") or ()] or None
    data["tool_choice"] = _choice(given.get("tool_choice"))
    return {name: value for name, value in data.items() if value is not None}


def _function(tool: dict[str, Any]) -> dict[str, Any]:
    """A function's tool as chats have it: under its own name."""
    rest = {name: value for name, value in tool.items() if name != "type" and value is not None}
    return {"type": "function", "function": rest}


def _choice(given: Any) -> Any:
    """The choice among tools as chats have it: some of them in an object of their own."""
    if not isinstance(given, dict):
        return given
    if given["type"] != "allowed_tools":
        return _function(given)
    some = {"mode": given["mode"], "tools": [_function(tool) for tool in given["tools"]]}
    return {"type": "allowed_tools", "allowed_tools": some}


def _format(given: dict[str, Any]) -> dict[str, Any]:
    """The format of the text as chats have it: a schema under its own name."""
    if given["type"] != "json_schema":
        return given
    rest = {name: value for name, value in given.items() if name != "type"}
    return {"type": "json_schema", "json_schema": rest}


def messages_of(instructions: str | None, items: Iterable[Item]) -> list[dict[str, Any]]:
    """The messages of a chat.

    Thinking, a text and calls that follow each other are one message of the assistant; thinking
    that nothing follows is left out.
    """
    messages: list[dict[str, Any]] = []
    if instructions:
        messages.append({"role": "system", "content": instructions})
    thoughts: dict[str, str] = {}
    for item in items:
        if isinstance(item, ReasoningItem):
            parts = item.content or item.summary or ()
            thoughts = {"reasoning_content": "".join(part.text for part in parts)}
            continue
        if isinstance(item, CallItem):
            if thoughts or not messages or messages[-1]["role"] != "assistant":
                messages.append({"role": "assistant", "content": None, **thoughts})
            messages[-1].setdefault("tool_calls", []).append(_call(item))
        else:
            message = _message(item)
            messages.append(message | (thoughts if message["role"] == "assistant" else {}))
        thoughts = {}
    return messages


def _call(item: CallItem) -> dict[str, Any]:
    function = {"name": item.name, "arguments": item.arguments}
    return {"id": item.call_id, "type": "function", "function": function}


def _message(item: Item) -> dict[str, Any]:
    if isinstance(item, CallOutputItem):
        return {"role": "tool", "tool_call_id": item.call_id, "content": _content(item.output)}
    assert isinstance(item, MessageItem)
    return {"role": item.role, "content": _content(item.content)}


def _content(given: Any) -> Any:
    """Text, or its parts, as chats have them."""
    if isinstance(given, str):
        return given
    texts = (part.refusal if isinstance(part, Refusal) else part.text for part in given)
    return [{"type": "text", "text": text} for text in texts]


_NAMES = {
    r"^messages\b(\[\d+\](\.\w+)*)?": "input",
    r"\bresponse_format\b(\.json_schema)?": "text.format",
    r"\b(tools\[\d+\]|tool_choice)\.function\b": r"\1",
    r"\breasoning_effort\b": "reasoning.effort",
    r"\bmax_(completion_)?tokens\b": "max_output_tokens",
}
"""What requests call what chats call otherwise."""


def renamed(error: ApiError) -> ApiError:
    """An error of the chat in the words of the request."""
    message, param = str(error), error.param
    for chat, own in _NAMES.items():
        message = re.sub(chat, own, message)
        param = param and re.sub(chat, own, param)
    return ApiError(
        error.status, message, param, error.code, kind=error.kind, headers=error.headers
    )

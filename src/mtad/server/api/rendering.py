"""Chats as chat templates take them: messages, calls, results and the tools themselves.

Templates that know no tools get all of that as text. Knows no tokenizer.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

from mtad.errors import PromptError
from mtad.server.api.messages import AssistantMessage, Content, Message, Tool, ToolCall, ToolMessage
from mtad.server.api.tool_parsers.families import Family

Plain = dict[str, Any]
_SHORT_ID = re.compile("[a-zA-Z0-9]{9}")
_NO_PARAMETERS = {"type": "object", "properties": {}}


def rendered(
    messages: Sequence[Message], tools: Sequence[Tool], template: str, family: Family
) -> tuple[list[Plain], Plain]:
    """Messages for a chat template, and the variables of the template that the tools are.

    Args:
        messages: of the request.
        tools: that the answer may call.
        template: the chat template.
        family: how the model writes calls.

    Raises:
        PromptError: the arguments of a call are no JSON object.
    """
    made = [plain_message(message) for message in messages]
    if "tools" in template or "tool_calls" in template:
        _add_calls(made, messages, shortened=family.name == "mistral")
    else:
        made = _as_text(made, messages, family)
    if not tools:
        return made, {}
    if "tools" in template:
        return made, {"tools": [described(tool) for tool in tools]}
    return _with_system(made, instructions(tools, family)), {}


def plain_message(message: Message) -> Plain:
    """A message without calls; parts of text are put together as they are."""
    role = "system" if message.role == "developer" else message.role
    name = {} if message.name is None else {"name": message.name}
    return {"role": role, "content": _text(message.content)} | name


def described(tool: Tool) -> Plain:
    """A tool as chat templates take it."""
    function = tool.function.model_dump(exclude_none=True, exclude={"strict"})
    return {"type": "function", "function": function | {"parameters": parameters_of(tool)}}


def parameters_of(tool: Tool) -> dict[str, Any]:
    """The schema of a tool's arguments."""
    given = tool.function.parameters
    return _NO_PARAMETERS if given is None else given


def _text(content: Content | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.text for part in content)


def _add_calls(given: list[Plain], messages: Sequence[Message], *, shortened: bool) -> None:
    """Add thinking, calls and the ids of results to plain messages.

    Args:
        given: gets them.
        messages: that they are of.
        shortened: whether ids have the nine letters and digits that Mistral's templates ask for.
    """

    def named(given_id: str) -> str:
        if not shortened or _SHORT_ID.fullmatch(given_id):
            return given_id
        return hashlib.sha256(given_id.encode(errors="replace")).hexdigest()[:9]

    names: dict[str, str] = {}
    for index, (plain, message) in enumerate(zip(given, messages, strict=True)):
        if isinstance(message, ToolMessage):
            plain["tool_call_id"] = named(message.tool_call_id)
            if message.tool_call_id in names:
                plain.setdefault("name", names[message.tool_call_id])
        if isinstance(message, AssistantMessage):
            if message.reasoning_content:
                plain["reasoning_content"] = message.reasoning_content
            calls = _calls(message, index)
            names |= {call.id: call.function.name for call, _ in calls}
            if calls:
                plain["tool_calls"] = [
                    {
                        "id": named(call.id),
                        "type": "function",
                        "function": {"name": call.function.name, "arguments": arguments},
                    }
                    for call, arguments in calls
                ]


def _calls(message: AssistantMessage, index: int) -> list[tuple[ToolCall, Plain]]:
    """The calls of the message with that index, each with its arguments."""
    found = []
    for number, call in enumerate(message.tool_calls or ()):
        try:
            arguments = json.loads(call.function.arguments or "{}")
        except (ValueError, RecursionError):
            arguments = None
        if not isinstance(arguments, dict):
            raise PromptError(
                f"messages[{index}].tool_calls[{number}].function.arguments must be the JSON text "
                "of an object; a call that was cut off by its budget cannot be sent back"
            )
        found.append((call, arguments))
    return found


def _as_text(given: list[Plain], messages: Sequence[Message], family: Family) -> list[Plain]:
    """Messages for a template that knows no tools: calls in the answers, results by the user."""
    made: list[Plain] = []
    for index, (plain, message) in enumerate(zip(given, messages, strict=True)):
        if isinstance(message, AssistantMessage) and (calls := _calls(message, index)):
            written = family.written([(call.function.name, given) for call, given in calls])
            plain["content"] = "\n".join(filter(None, (plain["content"], written)))
        if isinstance(message, ToolMessage):
            text = f"<tool_response>\n{plain['content']}\n</tool_response>"
            if made and index and isinstance(messages[index - 1], ToolMessage):
                made[-1]["content"] += f"\n{text}"
                continue
            plain = {"role": "user", "content": text}
        made.append(plain)
    return made


def _with_system(messages: list[Plain], text: str) -> list[Plain]:
    """Messages with a text after their system message, or as one."""
    if messages[0]["role"] != "system":
        return [{"role": "system", "content": text}, *messages]
    first = messages[0] | {"content": "\n\n".join(filter(None, (messages[0]["content"], text)))}
    return [first, *messages[1:]]


def instructions(tools: Sequence[Tool], family: Family) -> str:
    """The description of tools for a model whose template does not know any."""
    functions = "\n".join(
        json.dumps(described(tool)["function"], ensure_ascii=False) for tool in tools
    )
    example = ("NAME", {"ARGUMENT": "VALUE"})
    return (
        "You can call these functions. Each line describes one of them: its name, and the JSON "
        f"schema of its arguments.\n<tools>\n{functions}\n</tools>\n"
        "To call a function, write exactly this, with the function's name and its arguments:\n"
        f"{family.written([example])}\n"
        "The results come in the next message, between <tool_response> and </tool_response>."
    )

"""Request models of chats: messages, tools and the choice among them.

Knows no model and no scheduler.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Discriminator, Field, Tag, model_validator

from mtad.server.api.parts import Part

MAX_TOOLS = 128
PARSED = "What official clients' `.parse` adds to an answer; of no effect."

Label: TypeAlias = Annotated[str, Field(max_length=512)]
Nothing: TypeAlias = Annotated[list[Any], Field(max_length=0)]
ToolName: TypeAlias = Annotated[str, Field(pattern="^[a-zA-Z0-9_.-]{1,128}$")]


class TextPart(Part):
    """A piece of a message's text."""

    type: Literal["text"]
    text: str


Content: TypeAlias = str | Annotated[list[TextPart], Field(min_length=1, fail_fast=True)]


class CalledFunction(Part):
    """What was called."""

    name: ToolName
    arguments: str = Field(description="The JSON text of an object.")
    parsed_arguments: Any = Field(default=None, description=PARSED)


class ToolCall(Part):
    """A call that the model made; `index`, which streams have, may be sent back."""

    id: Label
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None


class SystemMessage(Part):
    """Instructions; `developer` is read as `system`."""

    role: Literal["system", "developer"]
    content: Content
    name: Label | None = None


class UserMessage(Part):
    """What the user says."""

    role: Literal["user"]
    content: Content
    name: Label | None = None


class AssistantMessage(Part):
    """What the model said before; neutral fields of an answer may be sent back."""

    role: Literal["assistant"]
    content: Content | None = Field(None, description="null or left out beside calls of tools.")
    name: Label | None = None
    reasoning_content: str | None = Field(None, description="A variable of the chat template.")
    tool_calls: Annotated[list[ToolCall], Field(max_length=MAX_TOOLS)] | None = None
    refusal: None = None
    audio: None = None
    annotations: Nothing | None = None
    function_call: None = None
    parsed: Any = Field(default=None, description=PARSED)

    @model_validator(mode="after")
    def _says_something(self) -> AssistantMessage:
        if self.content is None and not self.tool_calls:
            raise ValueError("an assistant's message needs content or tool_calls")
        return self


class ToolMessage(Part):
    """What a tool answered."""

    role: Literal["tool"]
    content: Content
    tool_call_id: Label
    name: Label | None = None


Message: TypeAlias = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")
]


class Function(Part):
    """A function that the model may call."""

    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = Field(
        None, description="The JSON schema of its arguments; without it there are none."
    )
    strict: bool | None = Field(
        None, description="Whether the arguments must satisfy the schema; false if left out."
    )


class Tool(Part):
    """A tool; functions are the only ones."""

    type: Literal["function"]
    function: Function


Tools: TypeAlias = Annotated[list[Tool], Field(max_length=MAX_TOOLS, fail_fast=True)]


class NamedFunction(Part):
    """One of the functions."""

    name: ToolName


class NamedTool(Part):
    """One of the tools."""

    type: Literal["function"]
    function: NamedFunction


class AllowedTools(Part):
    """Some of the tools, and whether one of them must be called."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Field(min_length=1, max_length=MAX_TOOLS, fail_fast=True)]


class SomeTools(Part):
    """A choice among some of the tools; the prompt describes all."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


def choice_kind(choice: Any) -> str:
    """Which model a choice of tools is of."""
    if isinstance(choice, str):
        return "word"
    given = choice.get("type") if isinstance(choice, dict) else getattr(choice, "type", "")
    return "some" if given == "allowed_tools" else "one"


ToolChoice: TypeAlias = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("word")]
    | Annotated[NamedTool, Tag("one")]
    | Annotated[SomeTools, Tag("some")],
    Discriminator(choice_kind),
]

"""Request models of `/v1/responses`: OpenAI's fields, those of mtad, and nothing else.

What is said of `mtad.server.api.request_models` holds here too. Knows no chat.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Discriminator, Field, Tag

from mtad.server.api.guided import NamedSchema, ObjectFormat
from mtad.server.api.guided import TextFormat as PlainFormat
from mtad.server.api.messages import PARSED, Label, choice_kind
from mtad.server.api.parts import Part
from mtad.server.api.request_models import Budget, Decoding, No

Status: TypeAlias = Literal["in_progress", "completed", "incomplete"]
Texts: TypeAlias = "str | Annotated[list[ContentPart], Field(min_length=1, fail_fast=True)]"


class InputText(Part):
    """A piece of what is said to the model."""

    type: Literal["input_text"]
    text: str


class OutputText(Part):
    """A piece of what the model said; all but the text is of no effect."""

    type: Literal["output_text"]
    text: str
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None
    parsed: Any = Field(default=None, description=PARSED)


class Refusal(Part):
    """A refusal of the model."""

    type: Literal["refusal"]
    refusal: str


ContentPart: TypeAlias = Annotated[InputText | OutputText | Refusal, Field(discriminator="type")]


class MessageItem(Part):
    """A message; `developer` is read as `system`."""

    role: Literal["user", "assistant", "system", "developer"]
    content: Texts
    type: Literal["message"] | None = None
    id: Label | None = None
    status: Status | None = None
    phase: Label | None = None


class CallItem(Part):
    """A call of a function, as the model made it."""

    type: Literal["function_call"]
    call_id: Label
    name: Label
    arguments: str
    parsed_arguments: Any = Field(default=None, description=PARSED)
    id: Label | None = None
    status: Status | None = None


class CallOutputItem(Part):
    """What a function returned."""

    type: Literal["function_call_output"]
    call_id: Label
    output: str | Annotated[list[InputText], Field(min_length=1, fail_fast=True)]
    id: Label | None = None
    status: Status | None = None


class ReasoningText(Part):
    """A piece of the thinking, or of its summary."""

    type: Literal["reasoning_text", "summary_text"]
    text: str


class ReasoningItem(Part):
    """What the model thought; the chat template decides whether it is shown to the model again."""

    type: Literal["reasoning"]
    id: Label | None = None
    summary: list[ReasoningText] | None = None
    content: list[ReasoningText] | None = None
    encrypted_content: None = None
    status: Status | None = None


class ReferenceItem(Part):
    """An item of a response that is stored here."""

    type: Literal["item_reference"]
    id: Label


_KINDS = ("message", "function_call", "function_call_output", "reasoning", "item_reference")


def _kind(item: Any) -> str | None:
    """The type of an item, which messages may leave out."""
    given = item.get("type") if isinstance(item, dict) else getattr(item, "type", "")
    kind = "message" if given is None else given
    return kind if kind in _KINDS else None


Item: TypeAlias = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[CallItem, Tag("function_call")]
    | Annotated[CallOutputItem, Tag("function_call_output")]
    | Annotated[ReasoningItem, Tag("reasoning")]
    | Annotated[ReferenceItem, Tag("item_reference")],
    Discriminator(
        _kind,
        custom_error_type="item_type",
        custom_error_message=f"an item's type may be {', '.join(_KINDS)}",
    ),
]


class FlatSchemaFormat(NamedSchema):
    """JSON of a schema; chats have the same in two objects."""

    type: Literal["json_schema"]


TextFormat: TypeAlias = Annotated[
    PlainFormat | ObjectFormat | FlatSchemaFormat, Field(discriminator="type")
]


class TextConfig(Part):
    """What the text is to be like."""

    format: TextFormat | None = Field(
        None, description="`json_object`, or `json_schema` with a schema, which is always kept."
    )
    verbosity: Label | None = Field(None, description="Of no effect.")


class FunctionTool(Part):
    """A function that the model may call."""

    type: Literal["function"]
    name: Label
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class NamedFunctionTool(Part):
    """The function that the model must call."""

    type: Literal["function"]
    name: Label


class SomeFunctionTools(Part):
    """Some of the functions, and whether the model must call one of them."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedFunctionTool], Field(min_length=1, fail_fast=True)]


FunctionChoice: TypeAlias = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("word")]
    | Annotated[NamedFunctionTool, Tag("one")]
    | Annotated[SomeFunctionTools, Tag("some")],
    Discriminator(choice_kind),
]


class Reasoning(Part):
    """How the model is to think."""

    effort: Label | None = Field(
        None, description="A variable of the chat template; of no effect where it has none."
    )
    summary: Label | None = Field(None, description="Of no effect.")
    generate_summary: Label | None = Field(None, description="Of no effect.")


class EventOptions(Part):
    """What a stream has beside the text."""

    include_obfuscation: No | None = None


class ResponsesRequest(Decoding):
    """The body of `POST /v1/responses`."""

    input: str | Annotated[list[Item], Field(min_length=1, fail_fast=True)]
    instructions: str | None = Field(
        None, description="A system message before all others; not kept for the next response."
    )
    previous_response_id: Label | None = Field(
        None, description="Of a stored response, whose conversation goes on."
    )
    store: bool | None = Field(
        None, description="Whether the response is kept for `previous_response_id`."
    )
    metadata: Annotated[dict[Label, Label], Field(max_length=16)] | None = Field(
        None, description="Stored with the response."
    )
    max_output_tokens: Budget | None = Field(None, description="Budget of new tokens.")
    text: TextConfig | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = Field(
        None, description="The most likely tokens beside each one; turns log-probabilities on."
    )
    include: list[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]] | None = (
        Field(None, description="Log-probabilities; there is no encrypted content.")
    )
    tools: list[FunctionTool] | None = None
    tool_choice: FunctionChoice | None = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: Budget | None = Field(None, description="Of OpenAI's own tools: no effect.")
    truncation: Literal["disabled", "auto"] | None = Field(
        None, description="Nothing is left out of a conversation: a too long one is refused."
    )
    reasoning: Reasoning | None = None
    stream_options: EventOptions | None = None  # type: ignore[assignment]  # not that of chats

    add_generation_prompt: bool | None = Field(
        None, description="Whether the template begins the answer; true if left out."
    )
    chat_template_kwargs: dict[str, Any] | None = Field(
        None, description="Variables of the chat template."
    )

    response_format: None = Field(None, description="It is `text.format` here.")
    n: None = None
    max_tokens: None = Field(None, description="It is `max_output_tokens` here.")
    background: No | None = None
    conversation: None = None
    prompt: None = None
    moderation: None = None
    context_management: None = None
    prompt_cache_options: None = None
    prompt_cache_retention: Label | None = Field(None, description="Of no effect.")

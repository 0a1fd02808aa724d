"""Request models: OpenAI's fields, those of mtad, and nothing else.

A parameter that cannot be honoured is refused by name. Parameters of OpenAI for things that are not
here (audio, …) may be given as long as their value asks for nothing, and those that change
nothing in the text always; `mtad.server.api.ignored` names the latter in the answer. null is the
same as leaving a parameter out. Knows no model and no scheduler.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema, create_model

from mtad.server.api.guided import Guided
from mtad.server.api.messages import Label, Message, Nothing, ToolChoice, Tools
from mtad.server.api.parts import Part
from mtad.server.api.sampling import request_fields

MAX_STOPS = 128
MAX_CHOICES = 128
"""What the schema allows for `n`; the server's own limit may be lower."""


def _no(value: bool) -> bool:
    """False, the only value that can be honoured; `Literal[False]` would take 0 too."""
    if value:
        raise ValueError("only false can be honoured here")
    return value


TokenId: TypeAlias = Annotated[int, Field(ge=0, lt=2**31)]
TokenIds: TypeAlias = Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]
TokenName: TypeAlias = Annotated[str, Field(pattern="^(0|[1-9][0-9]{0,9})$")]
Budget: TypeAlias = Annotated[int, Field(ge=1, lt=2**31)]
Stop: TypeAlias = Annotated[str, Field(max_length=256)]
No: TypeAlias = Annotated[bool, AfterValidator(_no), WithJsonSchema({"const": False})]

RAW_LOGPROBS = (
    "The log-probabilities are the target's own, before penalties, temperature and truncation."
)


def fields_in(model: type[BaseModel], loc: tuple[int | str, ...]) -> frozenset[str]:
    """Names of the fields that may stand where a field of this place stands.

    Args:
        model: of the whole body.
        loc: the place, whose first part is a field of the body.
    """
    if len(loc) == 1:
        return frozenset(model.model_fields)
    field = model.model_fields.get(str(loc[0]))
    inside = _models_in(field.annotation) if field else ()
    return frozenset(name for one in inside for name in one.model_fields)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that a type is made of, at any depth."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        for field in annotation.model_fields.values():
            yield from _models_in(field.annotation)
    for one in get_args(annotation):
        yield from _models_in(one)


class StreamOptions(Part):
    """What a stream has beside the text."""

    include_usage: bool | None = Field(
        None, description="A last chunk with the usage and no choices."
    )
    continuous_usage_stats: bool | None = Field(
        None, description="Every chunk has the usage so far."
    )
    include_obfuscation: No | None = None


class MethodChoice(BaseModel):
    """A method with its options beside its name."""

    model_config = ConfigDict(extra="allow", strict=True)

    name: str = Field(description="One of `GET /v1/methods`.")


_Sampling: Any = create_model("_Sampling", __base__=Part, **request_fields())


class Decoding(_Sampling, Guided):  # type: ignore[misc]
    """What chats and completions share."""

    model: str = Field(description="The served name; `GET /v1/models` lists it.")

    logit_bias: dict[TokenName, Annotated[float, Field(ge=-100, le=100)]] | None = Field(
        None, description="Added to the logits, by token id; at most 1024 tokens."
    )

    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = Field(
        None, description="Answers to each prompt. Choice i has the seed `seed` + i."
    )
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)] | None = Field(
        None, description="The text ends before the first of these; an empty one ends nothing."
    )
    stop_token_ids: Annotated[list[TokenId], Field(max_length=MAX_STOPS, fail_fast=True)] | None = (
        Field(None, description="Token ids that end the text, as an EOS does.")
    )
    include_stop_str_in_output: bool | None = Field(
        None, description="Whether the text has what ended it; false if left out."
    )
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = Field(
        None, description="Whether special tokens have no text; true if left out."
    )

    stream: bool | None = None
    stream_options: StreamOptions | None = None
    return_token_ids: bool | None = Field(None, description="Token ids beside each text.")
    trace: bool | None = Field(None, description="Every iteration in full.")
    timeout_s: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Seconds, waiting included, after which the request fails."
    )

    method: str | MethodChoice | None = Field(
        None, description="How to decode: a name, or an object of a name and options."
    )
    method_options: dict[str, Any] | None = Field(
        None, description="Options of the method; without `method`, of the server's default one."
    )

    cache_salt: Label | None = Field(
        None, description="Prefixes of prompts are shared only with requests that have the same."
    )
    user: Label | None = Field(None, description="Goes to the server's log.")
    store: bool | None = Field(None, description="Nothing is stored.")
    metadata: dict[str, Any] | None = Field(None, description="Of what would be stored.")
    service_tier: Label | None = Field(None, description="There is one tier.")
    prompt_cache_key: Label | None = Field(None, description="Of no effect.")
    safety_identifier: Label | None = Field(None, description="Of no effect.")


class ChatRequest(Decoding):
    """The body of `POST /v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1, fail_fast=True)]
    max_completion_tokens: Budget | None = Field(None, description="The same as `max_tokens`.")
    logprobs: bool | None = Field(None, description=RAW_LOGPROBS)
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    add_generation_prompt: bool | None = Field(
        None, description="Whether the template begins the answer; true if left out."
    )
    chat_template_kwargs: dict[str, Any] | None = Field(
        None, description="Variables of the chat template."
    )
    reasoning_effort: Label | None = Field(
        None, description="A variable of the chat template; of no effect where it has none."
    )
    verbosity: Label | None = Field(None, description="Of no effect.")
    modalities: Annotated[list[Literal["text"]], Field(min_length=1, max_length=1)] | None = None
    audio: None = None
    tools: Tools | None = Field(None, description="Functions that the answer may call.")
    tool_choice: ToolChoice | None = Field(
        None, description="Whether it calls them; with tools `auto` if left out, without `none`."
    )
    parallel_tool_calls: bool | None = Field(
        None, description="Whether it may call more than once; true if left out."
    )
    functions: Nothing | None = None
    function_call: Literal["none", "auto"] | None = None
    prediction: None = None
    moderation: None = None
    prompt_cache_options: None = None
    prompt_cache_retention: None = None
    web_search_options: None = None


class CompletionRequest(Decoding):
    """The body of `POST /v1/completions`."""

    max_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = Field(
        None, description="Budget of new tokens; with 0 and `echo` the prompt alone is answered."
    )
    prompt: (
        str
        | Annotated[list[str], Field(min_length=1, fail_fast=True)]
        | TokenIds
        | Annotated[list[TokenIds], Field(min_length=1, fail_fast=True)]
    )
    echo: bool | None = Field(
        None, description="Begin the text with the prompt, and log-probabilities with the prompt's."
    )
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = Field(None, description=RAW_LOGPROBS)
    suffix: Literal[""] | None = None
    best_of: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Only what `n` is: all that is made is answered."
    )


class TokenizeRequest(Part):
    """The body of `POST /tokenize`: a prompt or a chat."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[Message], Field(min_length=1, fail_fast=True)] | None = None
    add_special_tokens: bool | None = Field(
        None, description="Whether a prompt gets those that a text begins with; true if left out."
    )
    add_generation_prompt: bool | None = Field(
        None, description="Whether a chat's template begins the answer; true if left out."
    )
    chat_template_kwargs: dict[str, Any] | None = None
    tools: Tools | None = Field(None, description="Of a chat.")


class DetokenizeRequest(Part):
    """The body of `POST /detokenize`."""

    model: str | None = None
    tokens: Annotated[list[TokenId], Field(fail_fast=True)]

"""Response models of `/v1/responses`: OpenAI's shapes with the additions of mtad.

Knows no chat.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from pydantic import Field

from mtad.server.api.call_models import ResponseModel
from mtad.server.api.response_models import AnswerMetrics, Contract
from mtad.server.api.responses_api.requests import Status


class Top(ResponseModel):
    """One of the most likely tokens; -9999 stands for minus infinity."""

    token: str
    logprob: float
    bytes: list[int]


class Logprob(Top):
    """A token of the text, and the most likely ones at its place."""

    top_logprobs: list[Top]


class OutputTextPart(ResponseModel):
    """What the model says."""

    type: Literal["output_text"]
    text: str
    annotations: list[Any]
    logprobs: list[Logprob]


class OutputMessage(ResponseModel):
    """A message of the model."""

    type: Literal["message"]
    id: str
    role: Literal["assistant"]
    status: Status
    content: list[OutputTextPart]


class OutputCall(ResponseModel):
    """A call of a function."""

    type: Literal["function_call"]
    id: str
    call_id: str
    name: str
    arguments: str
    status: Status


class ReasoningPart(ResponseModel):
    """What the model thinks."""

    type: Literal["reasoning_text"]
    text: str


class OutputReasoning(ResponseModel):
    """What the model thinks before it speaks."""

    type: Literal["reasoning"]
    id: str
    status: Status
    summary: list[Any] = Field(description="Empty: nothing is summed up.")
    content: list[ReasoningPart]


OutputItem: TypeAlias = OutputMessage | OutputReasoning | OutputCall


class InputDetails(ResponseModel):
    """What the prefix cache knew of the prompt; writing to it is not counted, so that it is 0."""

    cached_tokens: int
    cache_write_tokens: Literal[0]


class OutputDetails(ResponseModel):
    """Of the tokens made; thinking is not counted apart, so that it is 0."""

    reasoning_tokens: Literal[0]


class TokenUsage(ResponseModel):
    """Tokens of the prompt, of which the conversation so far is a part, and of the text."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class Incomplete(ResponseModel):
    """Why a text is not whole."""

    reason: Literal["max_output_tokens"]


class Failure(ResponseModel):
    """Why there is no whole text; `mtad`'s own code is in the event `error`."""

    code: Literal["server_error"]
    message: str


class ResponseObject(ResponseModel):
    """A response; fields of the request are given back, with the values that were used."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    error: Failure | None
    incomplete_details: Incomplete | None
    model: str
    output: list[OutputItem]
    usage: TokenUsage | None

    background: Literal[False]
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    metadata: dict[str, str]
    parallel_tool_calls: bool
    previous_response_id: str | None
    prompt_cache_key: str | None
    reasoning: dict[str, Any]
    safety_identifier: str | None
    service_tier: Literal["default"]
    store: bool = Field(description="Whether it is kept for `previous_response_id`.")
    temperature: float
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float
    truncation: Literal["disabled"]
    user: str | None

    token_ids: list[int] = Field([], description="If asked for.")
    metrics: AnswerMetrics | None = Field(None, description="Once the text has ended.")
    mtad: Contract | None = Field(None, description="Once the text has ended.")


class Deleted(ResponseModel):
    """What was forgotten."""

    id: str
    object: Literal["response"]
    deleted: Literal[True]

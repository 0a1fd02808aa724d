"""The object of a response, from its request and its chat.

Knows no scheduler and no HTTP.
"""

from __future__ import annotations

from collections.abc import Iterator

from mtad.server.api.response_models import AnswerMetrics, Usage
from mtad.server.api.responses import ResponseBuilder
from mtad.server.api.responses_api.objects import (
    InputDetails,
    OutputDetails,
    ResponseObject,
    TokenUsage,
)
from mtad.server.api.responses_api.requests import ResponsesRequest


def begun(name: str, chat: ResponseBuilder, body: ResponsesRequest, store: bool) -> ResponseObject:
    """A response before its text.

    Args:
        name: its id.
        chat: that answers it.
        body: the request, whose fields are given back.
        store: whether the response will be kept.
    """
    sampling = chat.parsed.sequences[0].request.sampling
    given = body.model_dump(by_alias=True)
    text, reasoning = given["text"] or {}, given["reasoning"] or {}
    same = ("instructions", "max_output_tokens", "max_tool_calls", "previous_response_id", "user")
    return ResponseObject(
        id=name,
        object="response",
        created_at=chat.head["created"],
        completed_at=None,
        status="in_progress",
        error=None,
        incomplete_details=None,
        model=chat.head["model"],
        output=[],
        usage=None,
        background=False,
        metadata=body.metadata or {},
        parallel_tool_calls=body.parallel_tool_calls is not False,
        prompt_cache_key=body.prompt_cache_key,
        reasoning={"effort": None, "summary": None} | reasoning,
        safety_identifier=body.safety_identifier,
        service_tier="default",
        store=store,
        temperature=sampling.temperature,
        text=text | {"format": text.get("format") or {"type": "text"}},
        tool_choice=given["tool_choice"] or "auto",
        tools=given["tools"] or [],
        top_logprobs=body.top_logprobs or 0,
        top_p=sampling.top_p,
        truncation="disabled",
        **{field: given[field] for field in same},
    )


def token_usage(usage: Usage) -> TokenUsage:
    """A chat's usage in the words of responses."""
    cached = usage.prompt_tokens_details.cached_tokens
    return TokenUsage(
        input_tokens=usage.prompt_tokens,
        input_tokens_details=InputDetails(cached_tokens=cached, cache_write_tokens=0),
        output_tokens=usage.completion_tokens,
        output_tokens_details=OutputDetails(reasoning_tokens=0),
        total_tokens=usage.total_tokens,
    )


def metrics_of(
    chat: ResponseBuilder, body: ResponsesRequest, response: ResponseObject
) -> AnswerMetrics:
    """A chat's metrics; what had no effect is named as requests for responses name it."""
    metrics = chat.metrics()
    own = {"reasoning_effort": "reasoning", "verbosity": "text.verbosity"}
    names = [own.get(name, name) for name in metrics.ignored]
    names += [name for name in _ignored(body, response) if name not in names]
    return metrics.model_copy(update={"ignored": names}) if names else metrics


def _ignored(body: ResponsesRequest, response: ResponseObject) -> Iterator[str]:
    """The parameters without effect that chats do not have."""
    if body.store and not response.store:
        yield "store"
    if body.truncation == "auto":
        yield "truncation"
    if body.reasoning and (body.reasoning.summary or body.reasoning.generate_summary):
        yield "reasoning"
    if "reasoning.encrypted_content" in (body.include or ()):
        yield "include"

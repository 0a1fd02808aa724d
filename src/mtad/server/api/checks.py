"""What a request may not ask for: too much, what contradicts itself, a model that is not served.

Decodes nothing and reads no prompt.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

from mtad.core.names import did_you_mean
from mtad.methods import without_draft
from mtad.server.api.request_models import (
    ChatRequest,
    CompletionRequest,
    Decoding,
    TokenizeRequest,
)
from mtad.server.api.service import Service
from mtad.server.http.errors import ApiError
from mtad.server.scheduler.sequence import Sequence
from mtad.server.settings import ServerSettings
from mtad.speculative.method import Method

_MAX_BIASES = 1024
_MAX_DETAILS = 2**18
"""Log-probabilities, and nodes of trees, of one response: they are held until they are sent."""

_RESERVED = {
    *("chat_template", "continue_final_message", "conversation", "max_length", "messages"),
    *("padding", "return_assistant_tokens_mask", "return_dict", "return_tensors", "tokenize"),
    *("tokenizer_kwargs", "tools", "truncation"),
}
"""What is no variable of a chat template, but says which one is rendered and how."""

Rule: TypeAlias = tuple[bool, str, str]
"""Whether a rule is kept, the parameter at fault otherwise, and the error's message."""


def check_count(service: Service, body: Decoding, num_prompts: int) -> None:
    """Refuse a request whose sequences would never fit into the queue."""
    count, most = body.n or 1, service.settings.max_rows + service.settings.max_queue
    if num_prompts * count > most:
        raise ApiError(
            400,
            f"{num_prompts} prompts with {count} choices each are more than this server takes at "
            f"once, {most}; send fewer prompts per request",
            prompt_param(body),
        )


def check_draft(service: Service, method: Method) -> None:
    """Refuse a method that needs a draft model where there is none."""
    if method.drafted_by == "draft" and service.models.draft is None:
        raise ApiError(
            400,
            f"{method.name} needs a draft model, and this server has none; methods that need "
            f"none: {', '.join(without_draft(service.methods))}",
            "method",
        )


def check_model(service: Service, model: str | None) -> None:
    """Refuse a model that is not served.

    Raises:
        ApiError: it is not; status 404.
    """
    if model is not None and model not in service.names:
        raise ApiError(
            404,
            f"the model {model!r} is not served here{did_you_mean(model, service.names)}; the one "
            f"that is: {' or '.join(map(repr, service.names))}",
            "model",
            "model_not_found",
        )


def check_flags(service: Service, body: ChatRequest | CompletionRequest) -> None:
    """Refuse parameters that contradict each other or pass the server's limits."""
    own = _chat_rules(body) if isinstance(body, ChatRequest) else _completion_rules(body)
    for is_kept, param, message in (*_rules(service.settings, body), *own):
        if not is_kept:
            raise ApiError(400, message, param)


def _rules(settings: ServerSettings, body: Decoding) -> Iterator[Rule]:
    """Rules of both routes."""
    n, biases = body.n or 1, len(body.logit_bias or {})
    timeout_s, longest_s = body.timeout_s or 0, settings.max_timeout_s
    yield n <= settings.max_n, "n", f"n is {n}; this server gives at most {settings.max_n}"
    has_stream = bool(body.stream or not body.stream_options)
    yield has_stream, "stream_options", "stream_options needs stream"
    yield settings.allow_trace or not body.trace, "trace", "this server gives no traces"
    message = f"timeout_s is {timeout_s}; at most {longest_s:g} s are given"
    yield timeout_s <= longest_s, "timeout_s", message
    message = f"logit_bias has {biases} tokens; at most {_MAX_BIASES} may be"
    yield biases <= _MAX_BIASES, "logit_bias", message


def _chat_rules(body: ChatRequest) -> Iterator[Rule]:
    both = (body.max_tokens, body.max_completion_tokens)
    message = "max_tokens and max_completion_tokens mean the same and differ; give one"
    yield None in both or both[0] == both[1], "max_tokens", message
    has_logprobs = bool(body.logprobs or not body.top_logprobs)
    yield has_logprobs, "top_logprobs", "top_logprobs needs logprobs: true"


def _completion_rules(body: CompletionRequest) -> Iterator[Rule]:
    n = body.n or 1
    message = f"best_of is {body.best_of}; it can only be what n is, {n}"
    yield body.best_of in (None, n), "best_of", message


def check_details(service: Service, body: Decoding, sequences: list[Sequence]) -> None:
    """Refuse a response with more details than a server can hold for all its clients."""
    method, vocab, num_top = sequences[0].method, service.models.vocab, sequences[0].num_logprobs
    budgets = [sequence.request.sampling.max_new_tokens for sequence in sequences]
    scored = sum(len(one.request.prompt_ids) for one in sequences if one.scores_prompt)
    logprobs = 0 if num_top is None else (sum(budgets) + scored) * (num_top + 1)
    nodes = sum(method.num_nodes(vocab, budget) * budget for budget in budgets) if body.trace else 0
    for param, what, most in (("logprobs", "values", logprobs), ("trace", "nodes", nodes)):
        if most > _MAX_DETAILS:
            raise ApiError(
                400,
                f"{param} of {len(sequences)} choices may come to {most} {what}; at most "
                f"{_MAX_DETAILS} are sent: lower {budget_of(body)[0]} or n, or send fewer prompts",
                param,
            )


def prompt_param(body: Decoding) -> str:
    """The parameter that holds the prompt."""
    return "messages" if isinstance(body, ChatRequest) else "prompt"


def budget_of(body: Decoding) -> tuple[str, int | None]:
    """The client's name for the limit of new tokens, and the limit."""
    own = getattr(body, "max_completion_tokens", None)
    return ("max_completion_tokens", own) if own is not None else ("max_tokens", body.max_tokens)


def template_variables(body: ChatRequest | CompletionRequest | TokenizeRequest) -> dict[str, Any]:
    """What a request gives to the chat template beside the messages.

    Raises:
        ApiError: it gives the template itself, or what it is rendered with.
    """
    given: dict[str, Any] = getattr(body, "chat_template_kwargs", None) or {}
    if reserved := sorted(given.keys() & _RESERVED):
        message = f"{reserved[0]} is no variable of the chat template; leave it out"
        raise ApiError(400, f"chat_template_kwargs: {message}", "chat_template_kwargs")
    named = {n: getattr(body, n, None) for n in ("add_generation_prompt", "reasoning_effort")}
    return given | {name: value for name, value in named.items() if value is not None}

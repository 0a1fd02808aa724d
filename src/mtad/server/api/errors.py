"""Every error as an answer in OpenAI's shape, with its status.

Knows no route.
"""

from __future__ import annotations

import json
import logging
import math
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from mtad.core.names import did_you_mean
from mtad.errors import (
    CacheMemoryError,
    ContextLengthError,
    GrammarError,
    MtadError,
    OptionError,
    first_line,
)
from mtad.server.api.legacy import legacy_in
from mtad.server.api.request_models import fields_in
from mtad.server.api.sampling import NAMES
from mtad.server.http.errors import ApiError, body_too_large
from mtad.server.scheduler.errors import (
    ClosingError,
    DeadlineError,
    ModelFailedError,
    QueueFullError,
)

_log = logging.getLogger("mtad.server")
_LOOKED_AT = 100
"""Of the errors of a body, which may be as many as its bytes allow."""


def answer_errors(app: FastAPI) -> None:
    """Make every error of the application one of `ApiError`."""
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(ClientDisconnect, _left)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _unreadable)


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response()


async def _left(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # for the log: the client has gone


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path, status = request.url.path, error.status_code
    if status == 413:  # of starlette's middleware
        return body_too_large(request.scope["starlette.max_body_size"]).response()
    message = str(error.detail)
    if message == HTTPStatus(status).phrase:  # of the router
        hints = {
            404: f"there is no {path}; GET /openapi.json lists the routes",
            405: f"{path} does not take {request.method}",
        }
        message = hints.get(status, message)
    code = _HTTP_CODES.get(status)
    return ApiError(status, message, None, code, headers=error.headers).response()


_HTTP_CODES = {404: "not_found", 405: "method_not_allowed", 408: "body_too_slow"}


async def _unreadable(request: Request, error: Exception) -> Response:
    return ApiError(400, first_line(error)).response()


def as_api_error(error: Exception, form: str | None = None) -> ApiError:
    """The response to a request that an error ended.

    Args:
        error: which ended it.
        form: the parameter that holds its texts to a form.
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, QueueFullError):
        wait = {"Retry-After": str(max(1, math.ceil(error.retry_after_s)))}
        kind = "rate_limit_error"
        return ApiError(429, str(error), None, "queue_full", kind=kind, headers=wait)
    if isinstance(error, ClosingError):
        return ApiError(503, str(error), None, "closing", headers={"Retry-After": "5"})
    if isinstance(error, DeadlineError):
        return ApiError(504, str(error), None, "deadline_exceeded", kind="timeout_error")
    if isinstance(error, CacheMemoryError):
        return ApiError(503, str(error), None, "out_of_memory", headers={"Retry-After": "5"})
    if isinstance(error, GrammarError):  # after a text has begun
        return ApiError(400, f"{form}: {error}" if form else str(error), form, "grammar_failed")
    if isinstance(error, ModelFailedError | MtadError):
        return ApiError(500, str(error), None, "model_failed")
    _log.error("a request failed: %s", type(error).__name__, exc_info=error)
    return ApiError(500, "internal error; the server's log has the details", None, "internal_error")


def refusal(error: Exception, prompt: str, budget: str) -> ApiError:
    """The response to a request that the engine refuses before it begins.

    Args:
        error: whose message names parameters as the engine does.
        prompt: the parameter that holds the prompt.
        budget: the parameter that limits the new tokens, as the client named it.
    """
    if isinstance(error, QueueFullError | ClosingError):
        return as_api_error(error)
    message = str(error).removeprefix("request 0: ")
    names = NAMES | {"max_new_tokens": budget}
    for engine, request in names.items():
        message = message.replace(engine, request) if engine != request else message
    if isinstance(error, ContextLengthError):
        return ApiError(400, message, budget, "context_length_exceeded")
    if isinstance(error, CacheMemoryError):
        return ApiError(400, message, budget, "too_large")
    if isinstance(error, MtadError):
        return ApiError(400, message, prompt)
    at_fault = error.name if isinstance(error, OptionError) else None
    return ApiError(400, message, names.get(at_fault or "", "method"))


def invalid(error: ValidationError, data: Any, model: type[BaseModel]) -> ApiError:
    """The response to a body that does not fit the schema, which is `model`'s."""
    if asked := legacy_in(data):
        place, instead = asked
        message = f"{place}: functions are called as tools here; {instead}"
        return ApiError(400, message, place, "legacy_functions")
    found: dict[str, list[ErrorDetails]] = {}
    errors = error.errors(include_url=False, include_context=False)
    for one in errors[:_LOOKED_AT]:
        found.setdefault(_place(one["loc"], data, one["type"]), []).append(one)
    first = _top(next(iter(found)))
    inside = [place for place in found if _top(place) == first]
    param = max(inside, key=lambda place: place.count(".") + place.count("["))
    reasons = " or: ".join(dict.fromkeys(_reason(one, model) for one in found[param]))
    return ApiError(
        400, f"{param or 'the body'}: {reasons}", param or None, _CODES.get(errors[0]["type"])
    )


def _reason(error: ErrorDetails, model: type[BaseModel]) -> str:
    """What is wrong at a place of the body, whose schema is `model`'s."""
    text = _WORDS.get(error["type"]) or _given(error["input"]) + error["msg"]
    if error["type"] != "extra_forbidden":
        return text
    known = fields_in(model, error["loc"])
    return text + did_you_mean(str(error["loc"][-1]), known, is_typo=True)


_CODES = {"extra_forbidden": "unknown_parameter", "missing": "missing_parameter"}
_WORDS = {
    "extra_forbidden": "there is no such parameter, or it cannot be honoured here",
    "missing": "this parameter is required",
    "none_required": "it cannot be honoured here; leave it out or give null",
}


def _top(place: str) -> str:
    """The parameter that a place is in."""
    return place.split(".")[0].split("[")[0]


def _given(value: Any) -> str:
    """What was given, where that is short."""
    shown = json.dumps(value) if isinstance(value, str | int | float) else ""
    return f"{shown} was given; " if 0 < len(shown) <= 60 else ""


def _place(loc: tuple[int | str, ...], data: Any, kind: str) -> str:
    """Where in the body it is; a union's branches, which pydantic adds, are left out."""
    place = ""
    for part in loc:
        inside = isinstance(data, dict) and part in data
        inside = inside or (isinstance(data, list) and isinstance(part, int) and part < len(data))
        if not inside and not (kind == "missing" and part == loc[-1]):
            continue
        place += f"[{part}]" if isinstance(part, int) else f".{part}" if place else str(part)
        data = data[part] if inside else None
    return place

"""Bodies: those of requests from bytes to models, those of responses the other way.

Knows no route.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.responses import Response

from mtad.core.prompt import require_characters
from mtad.errors import PromptError
from mtad.server.api.call_models import ResponseModel
from mtad.server.api.errors import invalid
from mtad.server.http.errors import ApiError

Body = TypeVar("Body", bound=BaseModel)


def json_of(model: ResponseModel) -> Response:
    """The response to a request in one piece."""
    return Response(model.as_json(), media_type="application/json")


async def read_body(request: Request, model: type[Body]) -> Body:
    """The request's body as one of `model`.

    Raises:
        ApiError: it is no JSON, or does not fit; the first parameter at fault is named.
    """
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(
            415,
            f"the body's content type is {kind or 'not given'}; it must be application/json",
            code="unsupported_media_type",
        )
    text = await request.body()
    try:
        data: Any = from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise _unreadable(text, error) from None
    data = with_integers(data)
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise invalid(error, data, model) from None


def _unreadable(body: bytes, error: ValueError) -> ApiError:
    """The response to a body that is no JSON, or has halves of characters where it has texts."""
    with suppress(ValueError, RecursionError):
        try:
            require_characters(json.loads(body), "")
        except PromptError as lone:
            return ApiError(400, str(lone), code="invalid_json")
    if "recursion limit" in str(error):
        return ApiError(400, "the body is nested more than 200 levels deep", code="invalid_json")
    return ApiError(400, f"the body is no JSON: {error}", code="invalid_json")


def with_integers(data: Any) -> Any:
    """JSON with every number that has no fraction as an integer: 1.0 and 1 are the same there."""
    if isinstance(data, float):
        return int(data) if data.is_integer() and abs(data) < 2**63 else data
    if isinstance(data, list):
        return [with_integers(one) for one in data]
    if isinstance(data, dict):
        return {name: with_integers(value) for name, value in data.items()}
    return data

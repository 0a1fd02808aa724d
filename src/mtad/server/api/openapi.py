"""The description of the API that `/openapi.json` gives, true to what the routes do.

Bodies are read by the routes themselves, so that errors have OpenAI's shape; here they are
described. Knows no route's inside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from fastapi import APIRouter, FastAPI
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from mtad.sampling.params import numeric_settings
from mtad.server.api.call_models import ResponseModel
from mtad.server.api.request_models import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    TokenizeRequest,
)
from mtad.server.api.response_models import (
    ChatChunk,
    ChatCompletion,
    ErrorReply,
    TextChunk,
    TextCompletion,
)
from mtad.server.api.responses_api.events import EVENTS
from mtad.server.api.responses_api.objects import ResponseObject
from mtad.server.api.responses_api.requests import ResponsesRequest
from mtad.server.api.sampling import NAMES, described
from mtad.server.api.service import Service

_REF = "#/components/schemas/{model}"
_ASKED = (ChatRequest, CompletionRequest, ResponsesRequest)
_BODIES = (*_ASKED, TokenizeRequest, DetokenizeRequest)
_STREAMED: dict[type[BaseModel], tuple[type[ResponseModel], tuple[type[ResponseModel], ...]]] = {
    ChatRequest: (ChatCompletion, (ChatChunk, ErrorReply)),
    CompletionRequest: (TextCompletion, (TextChunk, ErrorReply)),
    ResponsesRequest: (ResponseObject, EVENTS),
}
_ERRORS = {
    400: "A parameter that cannot be honoured; `param` names it.",
    401: "No API key, or a wrong one.",
    403: "A web page of another origin, or a host that the server does not know.",
    404: "No such model, or no such stored response.",
    405: "Another method of HTTP than those of this route.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The body is not declared as JSON.",
    429: "The queue is full, or a client has too much at work; see `Retry-After`.",
    431: "Address and headers are too long.",
    500: "A model failed, or the server did.",
    503: "The server is not ready, is closing, or has no memory left now.",
    504: "The request's time is over.",
}
_BODILESS = (401, 403, 404, 405, 431, 500, 503)


def documented(
    router: APIRouter,
    method: str,
    path: str,
    endpoint: Callable[..., Any],
    *,
    body: type[BaseModel] | None = None,
    response: type[ResponseModel] | None = None,
) -> None:
    """Add a route with what it takes and answers.

    Args:
        router: gets it.
        method: of HTTP.
        path: of the route.
        endpoint: its function.
        body: what it takes, as JSON.
        response: what it answers; None for a plain text, or what `body` asks for.
    """
    responses: dict[int | str, dict[str, Any]] = {
        status: {"description": _ERRORS[status], "model": ErrorReply}
        for status in (_ERRORS if body else _BODILESS)
    }
    responses[200] = {"description": "The answer."} | _content(body, response)
    extra = {"requestBody": {"required": True, "content": _json_of(body)}} if body else None
    router.add_api_route(path, endpoint, methods=[method], responses=responses, openapi_extra=extra)


def _content(body: type[BaseModel] | None, response: type[ResponseModel] | None) -> dict[str, Any]:
    """A good response: JSON, JSON or events, or a plain text."""
    if body in _STREAMED:
        whole, chunks = _STREAMED[body]
        schema = _event_of(chunks, named=body is ResponsesRequest)
        return {"model": whole, "content": {"text/event-stream": {"schema": schema}}}
    if response is not None:
        return {"model": response}
    return {"content": {"text/plain": {"schema": {"type": "string"}}}}


def _json_of(model: type[BaseModel]) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": _REF.format(model=model.__name__)}}}


def _event_of(chunks: Iterable[type[ResponseModel]], *, named: bool) -> dict[str, Any]:
    """The schema of one event of a stream: with a name, or with a last one that is `[DONE]`."""
    models = [{"$ref": _REF.format(model=model.__name__)} for model in chunks]
    data: dict[str, Any] = {
        "type": "string",
        "contentMediaType": "application/json",
        "contentSchema": {"anyOf": models},
    }
    if named:
        properties = {"event": {"type": "string", "description": "Its `type`."}, "data": data}
        return {"type": "object", "properties": properties, "required": ["event", "data"]}
    data = {
        "description": "A chunk; the last event's is `[DONE]`, or an error.",
        "type": data.pop("type"),
        "anyOf": [{"const": "[DONE]"}, data],
    }
    return {"type": "object", "properties": {"data": data}, "required": ["data"]}


def describe(app: FastAPI, service: Service, *, has_keys: bool) -> None:
    """Make `app.openapi` describe the application's routes in full."""
    of_routes = app.openapi

    @cache
    def openapi() -> dict[str, Any]:
        return _completed(of_routes(), service, has_keys)

    app.openapi = openapi  # type: ignore[method-assign]  # the way that FastAPI documents


def _completed(schema: dict[str, Any], service: Service, has_keys: bool) -> dict[str, Any]:
    """FastAPI's schema with bodies, events, this server's limits and its keys."""
    for path in schema["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)  # such errors are 400 here
    components = schema.setdefault("components", {}).setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        components.pop(name, None)
    components.update(_definitions())
    _add_limits(components, service)
    if has_keys:
        schema["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        schema["security"] = [{"key": []}]
    return schema


def _definitions() -> dict[str, Any]:
    """The schemas, by name, that FastAPI does not find in the routes: of bodies and events."""
    bodies: list[tuple[type[BaseModel], JsonSchemaMode]] = [(one, "validation") for one in _BODIES]
    chunks: list[tuple[type[BaseModel], JsonSchemaMode]] = [
        (chunk, "serialization") for _, chunks in _STREAMED.values() for chunk in chunks
    ]
    _, schema = models_json_schema([*bodies, *chunks], ref_template=_REF)
    definitions: dict[str, Any] = schema["$defs"]
    return definitions


def _add_limits(components: dict[str, Any], service: Service) -> None:
    """Write this server's names and limits into the schemas of bodies."""
    for model in _ASKED:
        fields = components[model.__name__]["properties"]
        fields["model"]["enum"] = list(service.names)
        if "anyOf" in fields["n"]:
            fields["n"]["anyOf"][0]["maximum"] = service.settings.max_n
        for name, default in service.sampling.items():
            option = numeric_settings()[name]
            fields[NAMES[name]]["description"] = described(option, default)
        for name in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
            if "anyOf" in fields.get(name, {}):
                limit = fields[name]["anyOf"][0]
                if (most := service.max_tokens()) is not None:
                    limit["maximum"] = most
                    limit.pop("exclusiveMaximum", None)

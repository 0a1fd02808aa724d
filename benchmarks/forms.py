"""The same requests held to a form, for loads that have some: schemas in turn, and tools."""

from __future__ import annotations

from typing import Any

_TEXT = {"type": "string", "maxLength": 40}
_PET = {
    "type": "object",
    "properties": {"name": _TEXT, "kind": {"enum": ["cat", "dog"]}, "age": {"type": "integer"}},
    "required": ["name", "kind", "age"],
    "additionalProperties": False,
}
_CITY = {"anyOf": [{"type": "null"}, {"type": "string", "pattern": "^[A-Z][a-z]{1,12}$"}]}
SHORT: list[dict[str, Any]] = [_PET, {"type": "array", "items": _CITY, "maxItems": 3}]
"""Schemas whose texts end by themselves, if the budget lets them."""
_LONG_TEXT = {"type": "string", "minLength": 300}
_PERSON = {
    "type": "object",
    "properties": {"first_name": _LONG_TEXT, "description": _LONG_TEXT},
    "required": ["first_name", "description"],
}
LONG: list[dict[str, Any]] = [
    {"type": "object", "properties": {"summary": _LONG_TEXT}, "required": ["summary"]},
    {"type": "array", "items": _PERSON, "minItems": 50},
    {"type": "array", "items": {"type": "integer"}, "minItems": 400},
    {"type": "array", "items": _PET, "minItems": 50},
]
"""Schemas whose texts only their budget ends."""
_TOOL = {"type": "function", "function": {"name": "keep", "parameters": _PET}}


def held(bodies: list[dict[str, Any]], schemas: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The requests with one schema after the other."""
    return [
        body | {"response_format": _format(schemas[i % len(schemas)])}
        for i, body in enumerate(bodies)
    ]


def mixed(bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The requests, of each four one with a schema and one that is a chat with a tool."""
    forms = held(bodies, SHORT)
    return [
        (body, form, body, _with_tool(body))[i % 4]
        for i, (body, form) in enumerate(zip(bodies, forms, strict=True))
    ]


def _format(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "form", "schema": schema}}


def _with_tool(body: dict[str, Any]) -> dict[str, Any]:
    asked = body.get("messages") or [{"role": "user", "content": body["prompt"]}]
    plain = {key: value for key, value in body.items() if key != "prompt"}
    return plain | {"messages": asked, "tools": [_TOOL], "tool_choice": "required"}

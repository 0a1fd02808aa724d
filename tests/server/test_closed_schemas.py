"""Objects of tools' parameters are closed where their schemas do not say whether they are."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from mtad.server.api.tool_parsers.closing import closed

POINT: dict[str, Any] = {"type": "object", "properties": {"x": {"type": "integer"}}}
TREE: dict[str, Any] = {
    "type": "object",
    "properties": {"root": {"$ref": "#/$defs/node"}, "points": {"type": "array", "items": POINT}},
    "$defs": {
        "node": {
            "type": "object",
            "properties": {"value": {}, "next": {"anyOf": [{"$ref": "#/$defs/node"}, POINT]}},
            "required": ["value"],
        }
    },
}
OPEN = {"type": "object", "properties": {"at": POINT}, "additionalProperties": True}
BOTH: dict[str, Any] = {
    "type": "object",
    "properties": {"both": {"allOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}]}},
    "$defs": {
        "a": {"$ref": "#/$defs/c%20~1d"},
        "b": {"anyOf": [{"properties": {"b": {"type": "string"}}}, {"type": "null"}]},
        "c /d": {"type": "object", "properties": {"x": {"type": "integer"}, "at": POINT}},
    },
}
ONE_OF_ALL = {"properties": {"p": {"allOf": [POINT], "description": "alone", "default": {}}}}
TEXTS: list[tuple[dict[str, Any], dict[str, Any], bool]] = [
    (POINT, {"x": 1}, True),
    (POINT, {"x": 1, "y": 2}, False),
    (TREE, {"root": {"value": 1, "next": {"value": {"any": 1}, "next": {"x": 1}}}}, True),
    (TREE, {"root": {"value": 1, "new": 2}}, False),
    (TREE, {"root": {"value": 1, "next": {"value": 1, "new": 2}}}, False),
    (TREE, {"root": {"value": 1, "next": {"x": 1, "new": 2}}}, False),
    (TREE, {"points": [{"x": 1, "y": 2}]}, False),
    (OPEN, {"at": {"x": 1}, "new": 1}, True),
    (OPEN, {"at": {"x": 1, "new": 1}}, False),
    ({**POINT, "additionalProperties": {"type": "null"}}, {"y": None}, True),
    ({**POINT, "patternProperties": {"^y$": {}}}, {"y": 1}, True),
    ({"properties": {"a": {"type": "object"}}}, {"a": {"new": 1}}, True),
    ({"properties": {"a": {"type": "object", "properties": {}}}}, {"a": {"new": 1}}, True),
    ({"type": "object", "properties": {}}, {"new": 1}, False),
    ({"type": "object"}, {"new": 1}, True),
    ({}, {"new": 1}, True),
    ({"properties": {"a": {}}, "required": ["a", "b"]}, {"a": 1, "b": 2}, True),
    ({"properties": {"a": {}}, "minProperties": 2}, {"a": 1, "b": 2}, True),
    ({**POINT, "default": POINT, "examples": [POINT]}, {"x": 1}, True),
    ({"properties": {"a": {"const": POINT}}}, {"a": POINT}, True),
    (BOTH, {"both": {"x": 1, "b": "b"}}, True),
    (BOTH, {"both": {"x": 1, "at": {"new": 1}}}, False),
    ({**POINT, "anyOf": [{"properties": {"y": {}}}, {"required": ["x"]}]}, {"x": 1, "y": 1}, True),
    ({**POINT, "anyOf": [{"required": ["x"]}, {"maxProperties": 0}]}, {"x": 1, "y": 1}, False),
    (ONE_OF_ALL, {"p": {"x": 1}}, True),
    (ONE_OF_ALL, {"p": {"x": 1, "new": 1}}, False),
]


@pytest.mark.parametrize(("schema", "value", "is_valid"), TEXTS, ids=lambda v: str(v)[:40])
def test_which_arguments_a_closed_schema_takes(
    schema: dict[str, Any], value: dict[str, Any], is_valid: bool
) -> None:
    given = repr(schema)
    jsonschema.validate(value, schema)
    assert jsonschema.Draft202012Validator(closed(schema)).is_valid(value) == is_valid
    assert repr(schema) == given


DEEP: dict[str, Any] = {}
for _ in range(3000):
    DEEP = {"items": DEEP}
NO_SCHEMAS: list[dict[str, Any]] = [
    {"properties": {"a": {}}, "allOf": 1, "required": [[]], "minProperties": "x"},
    {"properties": [], "anyOf": {"properties": {}}, "$defs": 1},
    {"allOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/x/y"}, {"$ref": 1}], "$defs": {"a": 1}},
]


@pytest.mark.parametrize("schema", NO_SCHEMAS, ids=str)
def test_what_is_no_schema_stays_none(schema: dict[str, Any]) -> None:
    assert closed(schema) == schema
    assert closed(DEEP) is not None

"""Arguments that stand between tags: what their text is as JSON, by the tool's schema.

A text stands there as it is; everything else, and a text whose schema says more than its length or
its choices, is JSON. Knows no call.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mtad.server.api.tool_parsers.one_call import refuse_constant
from mtad.server.api.tool_parsers.references import MOST_REFS, resolved

_PLAIN = {
    *("type", "title", "description", "default", "examples", "$comment", "deprecated"),
    *("minLength", "maxLength", "enum", "const", "x-guidance"),
}
"""What a schema of a text that stands as it is may say."""
_WORDS = {"true": True, "false": False, "null": None, "none": None}


def is_text(schema: Mapping[str, Any]) -> bool:
    """Whether arguments of a resolved schema are texts that stand as they are."""
    return types_of(schema, {}) == {"string"} and schema.keys() <= _PLAIN


def property_of(schema: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The schema of an argument, without references at its top; empty where nothing is known."""
    schema = resolved(schema, schema)
    properties = schema.get("properties")
    found = properties.get(name) if isinstance(properties, Mapping) else None
    return resolved(found, schema) if isinstance(found, Mapping) else {}


def types_of(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int = 0) -> set[str]:
    """The types that values may have; none where the schema does not say."""
    schema = resolved(schema, root)
    if depth > MOST_REFS:
        return set()
    if given := schema.get("type"):
        return {given} if isinstance(given, str) else {str(one) for one in given}
    if "const" in schema:
        return {_type(schema["const"])}
    if isinstance(choices := schema.get("enum"), list):
        return {_type(one) for one in choices}
    inner = next((schema[key] for key in ("anyOf", "oneOf", "allOf") if key in schema), ())
    found = [types_of(one, root, depth + 1) for one in inner if isinstance(one, Mapping)]
    return set().union(*found) if all(found) else set()


def json_of(text: str, schema: Mapping[str, Any], root: Mapping[str, Any]) -> str:
    """The JSON text of an argument.

    Args:
        text: as it stands between its tags.
        schema: of the argument.
        root: of all arguments.
    """
    types = types_of(schema, root)
    if not is_text(schema):
        word = text.strip().lower()
        try:
            value = json.loads(text, parse_constant=refuse_constant)
        except (ValueError, RecursionError):
            value = _WORDS.get(word, text)
        if not types or _type(value) in types or ("number" in types and _type(value) == "integer"):
            return json.dumps(value, ensure_ascii=False)
    return json.dumps(text, ensure_ascii=False)


def _type(value: Any) -> str:
    """The name that JSON schemas have for a value's type."""
    if isinstance(value, float) and value.is_integer():
        return "integer"
    names = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array"}
    return names.get(type(value), "null" if value is None else "object")

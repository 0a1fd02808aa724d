"""References within a JSON schema, by the place of what they stand for.

Knows no call.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

MOST_REFS = 16
"""References that are followed one after another."""


def resolved(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a schema that is a reference stands for."""
    for _ in range(MOST_REFS):
        found = target_of(schema.get("$ref"), root)
        if found is None:
            return schema
        schema = {**found, **{k: v for k, v in schema.items() if k != "$ref"}}
    return {}


def target_of(ref: Any, root: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The schema that a reference names by its place; None where there is none."""
    if not isinstance(ref, str) or not ref.startswith("#/"):
        return None
    found: Any = root
    for key in unquote(ref[2:]).split("/"):
        key = key.replace("~1", "/").replace("~0", "~")
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else None


def moved(schema: Any, place: str) -> Any:
    """A schema whose references are right at another place of a document."""
    if isinstance(schema, list):
        return [moved(one, place) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    return {
        key: f"{place}{value[1:]}"
        if key == "$ref" and isinstance(value, str) and value.startswith("#")
        else value
        if key in ("const", "enum", "default", "examples")
        else moved(value, place)
        for key, value in schema.items()
    }

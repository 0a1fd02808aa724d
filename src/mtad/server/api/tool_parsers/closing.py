"""Closes the schemas of tools' arguments: an object has no other properties than those it names.

A schema that names properties and does not say whether there may be others allows them. A small
model would invent them until its budget ends, and who describes a tool does not expect them. Knows
no call.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from mtad.server.api.tool_parsers.references import target_of

_SAYS = {"additionalProperties", "patternProperties", "unevaluatedProperties"}
"""What says whether an object has other properties."""
_SAME = ("allOf", "anyOf", "oneOf")
"""Lists of schemas of the same value."""
_NAMED = ("properties", "patternProperties", "$defs", "definitions")
_INNER = ("items", "prefixItems", "additionalProperties")


def closed(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a tool's arguments, closed at every depth where it does not say that it is not.

    Objects of which it names no property stay free, but for the arguments themselves; so do those
    that several schemas describe together, since none of them knows what the others name.
    """
    try:
        together = [one for one in _all(parameters) if _num_of(one) > 1]
        shared = frozenset(ref for one in together for ref in _refs(one, parameters))
        made: dict[str, Any] = _closed(parameters, "#", shared, is_open=False)
    except RecursionError:
        return dict(parameters)  # no text can be held to it
    is_alone = _num_of(parameters) == 1
    if parameters.get("properties") == {} and is_alone and not made.keys() & _SAYS:
        made |= {"additionalProperties": False}
    return made


def _closed(schema: Any, place: str, shared: frozenset[str], *, is_open: bool) -> Any:
    """A schema at its place in the document, and those within it."""
    if isinstance(schema, list):
        return [
            _closed(one, f"{place}/{i}", shared, is_open=is_open) for i, one in enumerate(schema)
        ]
    if not isinstance(schema, Mapping):
        return schema
    is_open = is_open or place in shared or _num_of(schema) > 1
    made = dict(schema)
    for key in _SAME + _INNER:
        if key in schema:
            inner = is_open and key in _SAME
            made[key] = _closed(schema[key], f"{place}/{key}", shared, is_open=inner)
    for key in _NAMED:
        if isinstance(schema.get(key), Mapping):
            made[key] = {
                name: _closed(one, f"{place}/{key}/{_escaped(name)}", shared, is_open=False)
                for name, one in schema[key].items()
            }
    return made if is_open else _with_end(made)


def _with_end(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema that alone describes its value: without others than the properties it names."""
    properties, required = schema.get("properties"), schema.get("required", [])
    if not properties or not isinstance(properties, Mapping) or schema.keys() & _SAYS:
        return schema
    names = required if isinstance(required, list) else []
    missing = [one for one in names if isinstance(one, str) and one not in properties]
    properties = {**properties, **{name: {} for name in missing}}
    least = schema.get("minProperties", 0)
    if not isinstance(least, int) or least > len(properties):
        return schema
    return {**schema, "properties": properties, "additionalProperties": False}


def _num_of(schema: Mapping[str, Any]) -> int:
    """How many schemas of one value say what properties it has; those of a choice count once."""
    of_all, *choices = (
        [_num_of(one) > 0 for one in _listed(schema, key) if isinstance(one, Mapping)]
        for key in _SAME
    )
    return ("properties" in schema) + ("$ref" in schema) + sum(of_all) + sum(map(any, choices))


def _all(schema: Any) -> Iterator[Mapping[str, Any]]:
    """A schema and those within it."""
    if isinstance(schema, list):
        for one in schema:
            yield from _all(one)
    if isinstance(schema, Mapping):
        yield schema
        for key in _SAME + _INNER:
            yield from _all(schema.get(key))
        for key in _NAMED:
            if isinstance(named := schema.get(key), Mapping):
                yield from _all([*named.values()])


def _refs(schema: Any, root: Mapping[str, Any]) -> set[str]:
    """The places of other schemas of the same value."""
    found, waiting = set[str](), [schema]
    while waiting:
        one = waiting.pop()
        if not isinstance(one, Mapping):
            continue
        waiting += [inner for key in _SAME for inner in _listed(one, key)]
        ref = one.get("$ref")
        if isinstance(ref, str) and unquote(ref) not in found:
            found.add(unquote(ref))
            waiting.append(target_of(ref, root))
    return found


def _listed(schema: Mapping[str, Any], key: str) -> list[Any]:
    """The schemas in a list; none where it is no list."""
    given = schema.get(key)
    return given if isinstance(given, list) else []


def _escaped(name: str) -> str:
    """A name as references have it."""
    return name.replace("~", "~0").replace("/", "~1")

"""A JSON schema as llguidance is to read it, so that every text of it satisfies the schema.

llguidance refuses most keywords that it does not implement. Those that it would pass over, or keep
in part, are refused here or said so that it keeps them. Knows no tokenizer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from mtad.errors import GrammarError

ESCAPES = 'nrbtf\\"'
"""What may follow a backslash. Each string has one spelling, so that no key passes for another."""
MOST_EXACT = 2**53
"""Numbers from here on are written with other digits than they have."""
_CONTROL = re.compile(r"[\x00-\x07\x0b\x0e-\x1f\x7f]")
"""Characters that JSON can only write with \\u."""
UNKEPT = frozenset(
    """
    not if then else contains minContains maxContains uniqueItems propertyNames
    dependentRequired dependentSchemas unevaluatedItems unevaluatedProperties
    $dynamicRef $recursiveRef dependencies divisibleBy disallow extends
    """.split()
)
"""Keywords of any draft that no text is held to; in schemas of another draft llguidance would pass
over them."""
_DRAFTS = ("http://json-schema.org/draft", "https://json-schema.org/draft/")
_DRAFT = "https://json-schema.org/draft/2020-12/schema"
"""All drafts are read as this one, which has the most keywords."""
_LITERAL = frozenset(("const", "enum", "multipleOf", "required", "pattern"))
_NAMED = frozenset(("properties", "patternProperties", "$defs", "definitions"))
_DATA = frozenset(("default", "examples", "example", "type"))
_INWARD = {
    "minimum": math.inf,
    "exclusiveMinimum": math.inf,
    "maximum": -math.inf,
    "exclusiveMaximum": -math.inf,
}
_DATE = (
    "(?:000[1-9]|00[1-9][0-9]|0[1-9][0-9]{2}|[1-9][0-9]{3})"
    "-(?:(?:0[13-9]|1[0-2])-[0-9]{2}|02-(?:[01][0-9]|2[0-8]))"
    "|(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)-02-29"
)
_ANY_TEXT = frozenset(("password", "binary", "path", "file-path", "directory-path"))
"""Formats that pydantic and OpenAPI note, and that say nothing of a text's form."""
_LABEL = r"(?:[^.]{1,3}|[^.]{2}(?:[^.-][^.]|-[^.-])[^.]*)"
_TIGHTER: dict[str, dict[str, Any]] = {
    "date": {"pattern": f"^(?:{_DATE})$"},
    "date-time": {"pattern": f"^(?:{_DATE})[tT][^:]*:[^:]*:[0-5]"},
    "time": {"pattern": "^[^:]*:[^:]*:[0-5]"},
    "hostname": {"pattern": rf"^{_LABEL}(?:\.{_LABEL})*$", "maxLength": 253},
}
"""What a format is besides what llguidance makes of it: days and years that exist, no leap seconds,
no names in Punycode."""


def as_read(schema: Mapping[str, Any] | bool, whitespace: str) -> dict[str, Any]:
    """The schema as llguidance is to read it.

    Args:
        schema: as a user gave it.
        whitespace: a regular expression of what may stand between the symbols.

    Raises:
        GrammarError: it has something that no text would be held to.
    """
    if schema is False:
        raise GrammarError("the JSON schema is false, which no text satisfies")
    if schema is not True and "x-guidance" in schema:
        raise _refused("x-guidance, which changes how the rest is read, cannot be given")
    options = {"whitespace_pattern": whitespace, "json_allowed_escapes": ESCAPES}
    try:
        read = {} if schema is True else _read(schema, "#")
    except RecursionError as error:
        raise _refused("it is nested too deeply") from error
    # Last, since the order of keys counts, and the last one takes the place of this one.
    return {**read, "x-guidance": options}


def _read(schema: Any, place: str) -> Any:
    """A schema and those within it; whatever is none is left to llguidance."""
    if not isinstance(schema, Mapping):
        return schema
    _check(schema, place)
    read = {
        key: _value(key, value, f"{place}/{key}")
        for key, value in schema.items()
        if not is_void(key, value)
    }
    tighter, others = _TIGHTER.get(str(schema.get("format"))), read.get("allOf", [])
    return {**read, "allOf": [*others, tighter]} if tighter and isinstance(others, list) else read


def _check(schema: Mapping[str, Any], place: str) -> None:
    """Refuse what the texts would not be held to."""
    for key, value in schema.items():
        if key in UNKEPT and not is_void(key, value):
            raise _refused(f"{key} is not implemented, at {place}")
    if "prefixItems" in schema and "additionalItems" in schema:
        raise _refused(f"prefixItems and additionalItems are of different drafts, at {place}")
    least, required = schema.get("minProperties"), schema.get("required")
    certain = len(set(map(str, required))) if isinstance(required, list) else 0
    if isinstance(least, int) and least > max(1, certain):
        raise _refused(
            f"minProperties is {least}; it can be 1, or the number of required properties, as "
            f"others may repeat, at {place}"
        )


def _value(key: str, value: Any, place: str) -> Any:
    """What a keyword says."""
    if key == "$schema":
        return _DRAFT if isinstance(value, str) and value.startswith(_DRAFTS) else value
    if key in _LITERAL:
        _check_writable(value, place)
        return value
    if key in _INWARD:
        return _bound(value, _INWARD[key])
    if key in _DATA:
        return value
    if isinstance(value, list):
        return [_read(one, f"{place}/{i}") for i, one in enumerate(value)]
    if key in _NAMED and isinstance(value, Mapping):
        _check_writable([*value], place)
        return {name: _read(one, f"{place}/{name}") for name, one in value.items()}
    return _read(value, place)


def is_void(key: str, value: Any) -> bool:
    """Whether a keyword says nothing."""
    if key == "propertyNames":  # zod says of each record that its names are strings
        return value is True or value == {} or value == {"type": "string"}
    if key == "format":
        return isinstance(value, str) and value in _ANY_TEXT
    return key == "uniqueItems" and value is False


def _is_exact(number: Any) -> bool:
    """Whether a number is the same in float64, which llguidance computes in."""
    try:
        return not isinstance(number, int) or int(float(number)) == number
    except OverflowError:
        return False


def _check_writable(value: Any, place: str) -> None:
    """Refuse data that would be written as other data."""
    if isinstance(value, str) and _CONTROL.search(value):
        raise _refused(f"{value!r} has a control character, at {place}")
    if isinstance(value, int | float) and not (_is_exact(value) and abs(value) < MOST_EXACT):
        raise _refused(f"{value} is not below 2**53, at {place}")
    if isinstance(value, Mapping):
        _check_writable([*value, *value.values()], place)
    if isinstance(value, list):
        for one in value:
            _check_writable(one, place)


def _bound(number: Any, inward: float) -> Any:
    """A bound that is exact, not looser than the one given."""
    if _is_exact(number):
        return number
    try:
        near = float(number)
    except OverflowError:
        return number
    return near if (near > number) == (inward > 0) else math.nextafter(near, inward)


def _refused(why: str) -> GrammarError:
    return GrammarError(f"the JSON schema cannot be honoured: {why}")

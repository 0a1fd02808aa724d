"""The JSON object in a model's answer, and whether it has the fields that were asked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NoReturn

from mtad.tasks.answers import blocks, without_reasoning

_MAX_STARTS: Final = 100
_ONE_OF: Final = "one of "


def find_object(answer: str) -> dict[str, Any] | None:
    """The first JSON object of an answer, None where there is none.

    Fenced blocks come before the text around them, and an object that is cut off or damaged is
    none: no part of it is taken in its place. Text before and behind the object does not matter.
    """
    text = without_reasoning(answer)
    for part in [*(block.text for block in blocks(text)), text]:
        if (found := _first_object(part)) is not None:
            return found
    return None


def _first_object(text: str) -> dict[str, Any] | None:
    """What the first brace that could open an object opens."""
    for start in _starts(text):
        try:
            found, _ = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            return None
        return dict(found)
    return None


def _starts(text: str) -> Iterator[int]:
    """Places of braces followed by a key or a brace; `{name}` in prose opens nothing."""
    at = -1
    for _ in range(_MAX_STARTS):
        if (at := text.find("{", at + 1)) < 0:
            return
        if text[at + 1 :].lstrip()[:1] in ('"', "}"):
            yield at


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_refuse)


def violations(found: Mapping[str, Any], schema: Mapping[str, str]) -> list[str]:
    """What is wrong with an object: missing and unknown keys, and values of another type.

    Args:
        found: the object.
        schema: the type of each key, one of `is_type`'s.
    """
    missing = [f"{name} is missing" for name in schema if name not in found]
    unknown = [f"{name} is not in the schema" for name in found if name not in schema]
    wrong = [
        f"{name} is {value!r}; expected {schema[name]}"
        for name, value in found.items()
        if name in schema and not _has_type(value, schema[name])
    ]
    return missing + unknown + wrong


def is_type(text: str) -> bool:
    """Whether a schema may name this type: one of `_TYPES`, "… or null", or "one of a, b, c"."""
    name = text.removesuffix(" or null")
    return name in _TYPES or (name.startswith(_ONE_OF) and bool(name.removeprefix(_ONE_OF)))


def type_names() -> str:
    """The types that a schema may name, for messages."""
    return f"{', '.join(_TYPES)}, one of A, B, …, and each of them with “or null”"


def _has_type(value: Any, text: str) -> bool:
    name = text.removesuffix(" or null")
    if value is None:
        return name != text
    if name.startswith(_ONE_OF):
        return value in name.removeprefix(_ONE_OF).split(", ")
    return _TYPES[name](value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_TYPES: Final[dict[str, Callable[[Any], bool]]] = {
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": _is_number,
    "boolean": lambda value: isinstance(value, bool),
    "list of strings": lambda value: (
        isinstance(value, list) and all(isinstance(entry, str) for entry in value)
    ),
}


def is_same(found: Any, gold: Any) -> bool:
    """Whether two values are equal; white space around texts does not count, and 1 is no true."""
    if isinstance(gold, str) and isinstance(found, str):
        return found.strip() == gold.strip()
    if isinstance(gold, list) and isinstance(found, list):
        return len(found) == len(gold) and all(map(is_same, found, gold))
    return isinstance(found, bool) == isinstance(gold, bool) and bool(found == gold)

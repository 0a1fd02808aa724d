"""The fields of a dataclass as options: their types, and values checked against them."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal

_NAMES = {int: "an integer", float: "a number", bool: "true or false", str: "a text"}


def option_types(cls: type[Any]) -> dict[str, Any]:
    """The types of a dataclass's fields, by name."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def typed(value: Any, kind: Any, name: str) -> Any:
    """The value as one of type `kind`: an integer is a number, a list is a tuple.

    Raises:
        ValueError: it is of another type; the message calls it `name`.
    """
    try:
        return _typed(value, kind)
    except TypeError:
        raise ValueError(f"{name} is {value!r}; it must be {_form(kind)}") from None


def _typed(value: Any, kind: Any) -> Any:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _first_typed(value, inner)
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_typed(part, inner[0]) for part in value)
    if origin is Literal:
        fits = any(type(value) is type(choice) and value == choice for choice in inner)
    elif kind is float:
        fits = type(value) in (int, float) and not math.isnan(value)
        value = float(value) if fits else value
    elif kind in _NAMES:
        fits = type(value) is kind
    else:
        fits = isinstance(value, origin or kind)
    if not fits:
        raise TypeError(kind)
    return value


def _first_typed(value: Any, kinds: Sequence[Any]) -> Any:
    """The value by the first of the types that it fits."""
    for kind in kinds:
        try:
            return _typed(value, kind)
        except TypeError:
            continue
    raise TypeError(kinds)


def type_name(kind: Any) -> str:
    """What a value of this type looks like on the command line, for people."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        names = [type_name(k) for k in inner if k is not type(None)]
        return " or ".join([*names, "none"] if type(None) in inner else names)
    if origin is Literal:
        return " or ".join(map(str, inner))
    if origin is tuple:
        return f"{_NAMES[inner[0]].split()[-1]}s with commas between them"
    return _NAMES.get(kind, str(kind))


def _form(kind: Any) -> str:
    """What a value of this type looks like in a file or in Python, for people."""
    if typing.get_origin(kind) is tuple:
        return f"a list of {_NAMES[typing.get_args(kind)[0]].split()[-1]}s"
    return type_name(kind)


def jsonable(value: Any) -> Any:
    """The same value for JSON, which has neither infinity nor NaN: they become text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(v) for v in value]
    return value

"""From `-o name=value` to a method: values are parsed by the types of the method's fields."""

from __future__ import annotations

import dataclasses
import math
import os
import sys
import types
import typing
from typing import Any, Literal

from mtad import methods
from mtad.cli.settings import Settings
from mtad.method import Method

_SHORT = ("num_draft_tokens", "beam_width", "accept_threshold", "k_config")
_TRUTH = dict.fromkeys(("true", "yes", "on", "1"), True) | dict.fromkeys(
    ("false", "no", "off", "0"), False
)
_NAMES = {int: "an integer", float: "a number", bool: "true or false", str: "a text"}


def find_method(name: str) -> type[Method]:
    """The method called `name`; modules in the working directory are found too."""
    if "." in name and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    return methods.find(name)


def make_method(settings: Settings) -> Method:
    """The method with its options.

    Raises:
        ValueError: unknown name, wrong type, impossible value, or an option given twice.
    """
    cls = find_method(settings.method)
    types_of = option_types(cls)
    values: dict[str, Any] = {}
    for flag, name, text in _assignments(settings):
        if name not in types_of:
            known = ", ".join(types_of) or "it has none"
            raise ValueError(f"{flag}: {cls.name} has no option {name!r}; its options: {known}")
        if name in values:
            raise ValueError(f"{flag}: {name} is given twice")
        values[name] = parse(text, types_of[name], name)
    return cls(**values)


def option_types(cls: type[Method]) -> dict[str, Any]:
    """The types of the method's fields, by name."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _assignments(settings: Settings) -> list[tuple[str, str, str]]:
    """Flag, option and value of all that was said about the method."""
    found = []
    for text in settings.option or ():
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"-o {text}: expected NAME=VALUE, such as -o accept_threshold=0.5")
        found.append((f"-o {text}", name.strip().replace("-", "_"), value.strip()))
    for name in _SHORT:
        if (value := getattr(settings, name)) is not None:
            found.append((f"--{name.replace('_', '-')}", name, value))
    return found


def parse(text: str, kind: Any, name: str) -> Any:
    """The value that `text` means for an option of type `kind`.

    Raises:
        ValueError: it is not of that type.
    """
    try:
        return _parse(text, kind)
    except (ValueError, KeyError):
        raise ValueError(f"{name} is {text!r}; it must be {type_name(kind)}") from None


def _parse(text: str, kind: Any) -> Any:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        kinds = [k for k in inner if k is not type(None)]
        is_none = len(kinds) < len(inner) and text.lower() == "none"
        return None if is_none else _first(text, kinds)
    if origin is Literal:
        return {str(choice): choice for choice in inner}[text]
    if origin is tuple:
        return tuple(_parse(part.strip(), inner[0]) for part in text.split(","))
    if kind is bool:
        return _TRUTH[text.lower()]
    value = kind(text)
    if isinstance(value, float) and math.isnan(value):
        raise ValueError(text)
    return value


def _first(text: str, kinds: list[Any]) -> Any:
    """The value by the first of the types that it fits."""
    for kind in kinds[:-1]:
        try:
            return _parse(text, kind)
        except (ValueError, KeyError):
            continue
    return _parse(text, kinds[-1])


def type_name(kind: Any) -> str:
    """What a value of this type looks like, for people."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        names = [type_name(k) for k in inner if k is not type(None)]
        return " or ".join([*names, "none"] if type(None) in inner else names)
    if origin is Literal:
        return " or ".join(map(str, inner))
    if origin is tuple:
        return f"{_NAMES[inner[0]].split()[-1]}s with commas between them"
    return _NAMES.get(kind, str(kind))


def jsonable(value: Any) -> Any:
    """The same value for JSON, which has neither infinity nor NaN: they become text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(v) for v in value]
    return value


def describe(method: Method) -> dict[str, Any]:
    """Name, options and contract of a method, for JSON."""
    return {
        "name": method.name,
        "options": jsonable(dataclasses.asdict(method)),
        "lossless": method.is_lossless,
    }

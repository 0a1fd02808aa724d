"""From `-o name=value` to a method: values are parsed by the types of the method's fields."""

from __future__ import annotations

import dataclasses
import math
import os
import sys
import types
import typing
from pathlib import Path
from typing import Any, Literal

from mtad import methods
from mtad.api.options import MethodConfig, read_config
from mtad.cli.settings import Settings
from mtad.core.options import option_types, type_name
from mtad.methods import no_such_option
from mtad.speculative.method import Method

_SHORT = ("num_draft_tokens", "beam_width", "accept_threshold", "k_config")
_TRUTH = dict.fromkeys(("true", "yes", "on", "1"), True) | dict.fromkeys(
    ("false", "no", "off", "0"), False
)


def find_method(name: str) -> type[Method]:
    """The method called `name`; modules in the working directory are found too."""
    if "." in name:
        _look_here()
    return methods.find(name)


def find_config(path: Path) -> MethodConfig:
    """The configuration in a file; its method may be a module in the working directory too."""
    _look_here()
    return read_config(path)


def _look_here() -> None:
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def make_method(settings: Settings) -> Method:
    """The method with its options: those of the file that was named, then those of the flags.

    Raises:
        ValueError: unknown name, wrong type, impossible value, or an option given twice.
    """
    cls = find_method(settings.method)
    base = find_config(settings.config).method if settings.config else None
    types_of = option_types(cls)
    values: dict[str, Any] = {}
    for flag, name, text in _assignments(settings):
        if name not in types_of:
            raise ValueError(f"{flag}: {no_such_option(cls, name)}")
        if name in values:
            raise ValueError(f"{flag}: {name} is given twice")
        values[name] = parse(text, types_of[name], name)
    return dataclasses.replace(base, **values) if type(base) is cls else cls(**values)


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

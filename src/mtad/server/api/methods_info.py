"""What requests may ask of the methods: which there are, and their options, for people and pages.

Knows no HTTP and no model.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

from mtad import methods
from mtad.core.options import jsonable
from mtad.core.schema import Option, options_of
from mtad.sampling.params import numeric_settings
from mtad.server.api.call_models import ResponseModel
from mtad.server.api.sampling import NAMES, bounds
from mtad.speculative.method import Method

Kind: TypeAlias = Literal["integer", "number", "boolean", "choice", "list", "text"]
_KINDS: dict[Any, Kind] = {
    int: "integer",
    float: "number",
    bool: "boolean",
    Literal: "choice",
    tuple: "list",
}


class MethodOption(ResponseModel):
    """An option of a method."""

    name: str
    type: Kind
    default: Any
    choices: list[str] | None
    nullable: bool


class SamplingSetting(ResponseModel):
    """A sampling setting that is a number."""

    name: str
    type: Literal["integer", "number"]
    default: float
    minimum: float | None
    maximum: float | None
    description: str


class MethodSheet(ResponseModel):
    """A method that requests may name."""

    name: str
    lossless: bool
    citation: str
    rule: str
    drafter: Literal["draft", "target", "none"]
    options: list[MethodOption]


class MethodDefault(ResponseModel):
    """How requests that name no method are decoded."""

    name: str
    options: dict[str, Any]


class MethodList(ResponseModel):
    """All methods that requests may name."""

    object: Literal["list"]
    data: list[MethodSheet]
    default: MethodDefault
    sampling: list[SamplingSetting]


def known_methods(default: Method, allowed: Sequence[str]) -> dict[str, type[Method]]:
    """The methods that requests may name.

    Args:
        default: the server's own, which may come from outside the package.
        allowed: names; empty for all.
    """
    found = {name: methods.find(name) for name in methods.names()}
    found[default.name] = type(default)
    names = {methods.find(name).name for name in allowed}
    return {name: cls for name, cls in found.items() if not names or name in names}


def method_list(
    default: Method,
    known: Sequence[type[Method]],
    sampling: Mapping[str, Any] = MappingProxyType({}),
) -> MethodList:
    """The answer of `GET /v1/methods`.

    Args:
        default: of requests that name no method.
        known: those that may be named.
        sampling: settings of requests that do not give them, where these are not their own.
    """
    options = jsonable(dataclasses.asdict(default))
    return MethodList(
        object="list",
        data=[sheet(cls) for cls in known],
        default=MethodDefault(name=default.name, options=options),
        sampling=[_setting(option, sampling) for option in numeric_settings().values()],
    )


def sheet(cls: type[Method]) -> MethodSheet:
    """What there is to know about a method."""
    options = [_option(option) for option in options_of(cls).values()]
    return MethodSheet(**methods.sheet(cls) | {"rule": rule_of(cls), "options": options})


def rule_of(cls: type[Method]) -> str:
    """The head of the method's documentation."""
    return " ".join(methods.sheet(cls)["rule"].split("\n\n")[0].split())


def _option(option: Option) -> MethodOption:
    is_union = typing.get_origin(option.type) in (typing.Union, types.UnionType)
    kinds = typing.get_args(option.type) if is_union else (option.type,)
    kind = next(kind for kind in kinds if kind is not types.NoneType)
    is_choice = typing.get_origin(kind) is Literal
    return MethodOption(
        name=option.name,
        type=_KINDS.get(typing.get_origin(kind) or kind, "text"),
        default=jsonable(option.default),
        choices=[str(choice) for choice in typing.get_args(kind)] if is_choice else None,
        nullable=types.NoneType in kinds,
    )


def _setting(option: Option, defaults: Mapping[str, Any]) -> SamplingSetting:
    minimum, maximum = bounds(option)
    return SamplingSetting(
        name=NAMES[option.name],
        type="integer" if option.type is int else "number",
        default=defaults.get(option.name, option.default),
        minimum=minimum,
        maximum=maximum,
        description=option.help,
    )

"""The registry of methods: one file per method, the file's name is the method's name."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any

from mtad.core.options import jsonable, option_types, typed
from mtad.speculative.method import Method


def names() -> list[str]:
    """Names of the methods that come with mtad."""
    return [module.name for module in pkgutil.iter_modules(__path__)]


def find(name: str) -> type[Method]:
    """The method class called `name`, or the one in the module `package.module`.

    Raises:
        ValueError: no such method; the message lists the known ones.
    """
    path = name if "." in name else f"{__name__}.{name}"
    if "." not in name and name not in names():
        raise ValueError(f"there is no method {name!r}; known methods: {', '.join(names())}")
    try:
        module = importlib.import_module(path)
    except ImportError as error:
        raise ValueError(f"method module {name!r} cannot be imported: {error}") from error
    own = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, Method)
        and value.__module__ == module.__name__
    ]
    if len(own) != 1:
        raise ValueError(f"{path} must define exactly one Method, it defines {len(own)}")
    return own[0]


def make(name: str, options: Mapping[str, Any]) -> Method:
    """The method called `name` with these options, values of their types; lists become tuples.

    Raises:
        ValueError: unknown method or option, with the known ones, or a value of a wrong type.
    """
    cls = find(name)
    kinds = option_types(cls)
    for option in options:
        if option not in kinds:
            raise ValueError(no_such_option(cls, option))
    return cls(**{o: typed(v, kinds[o], f"{cls.name}: {o}") for o, v in options.items()})


def no_such_option(cls: type[Method], name: str) -> str:
    """What to say about an option that the method does not have."""
    known = ", ".join(option_types(cls)) or "it has none"
    return f"{cls.name} has no option {name!r}; its options: {known}"


def describe(method: Method) -> dict[str, Any]:
    """Name, options and contract of a method, for JSON."""
    return {
        "name": method.name,
        "options": jsonable(dataclasses.asdict(method)),
        "lossless": method.is_lossless,
    }

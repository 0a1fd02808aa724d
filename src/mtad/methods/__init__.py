"""The registry of methods: one file per method, the file's name is the method's name.

Methods of other packages come through the entry point group `mtad.methods`.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import sys
import warnings
from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any

from mtad.core.options import jsonable
from mtad.core.schema import options_of
from mtad.errors import OptionError
from mtad.speculative.method import Method

GROUP = "mtad.methods"
"""Entry points of other packages: `name = "package.module"` or `name = "package.module:Class"`."""


def own_names() -> list[str]:
    """Names of the methods that come with mtad."""
    return [module.name for module in pkgutil.iter_modules(__path__)]


def names() -> list[str]:
    """Names of all methods that are installed, those of mtad first."""
    return [*own_names(), *_installed()]


@cache
def _installed() -> Mapping[str, EntryPoint]:
    """The methods of other packages by name."""
    found = {point.name: point for point in sorted(entry_points(group=GROUP))}
    for name in found.keys() & set(own_names()):
        taken = found.pop(name)
        warnings.warn(
            f"{taken.value} is called like a method of mtad, {name}, and is left out; rename it",
            stacklevel=2,
        )
    return found


def find(name: str) -> type[Method]:
    """The method class called `name`, or the one in the module `package.module`.

    Raises:
        OptionError: no such method, with the known ones, or one that cannot be imported.
    """
    if "." not in name and name not in names():
        raise OptionError(f"there is no method {name!r}; known methods: {', '.join(names())}")
    point = _installed().get(name)
    try:
        if point is None:
            return _only_method(importlib.import_module(_module_of(name)))
        found = point.load()
    except ImportError as error:
        raise OptionError(f"method module {name!r} cannot be imported: {error}") from error
    cls = _only_method(found) if isinstance(found, ModuleType) else found
    if not (isinstance(cls, type) and issubclass(cls, Method) and cls.name == name):
        raise OptionError(
            f"the entry point {name!r} is {point.value}; it must be a Method with name = {name!r}"
        )
    return cls


def _module_of(name: str) -> str:
    return name if "." in name else f"{__name__}.{name}"


def _only_method(module: ModuleType) -> type[Method]:
    """The method that a module defines."""
    own = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, Method)
        and value.__module__ == module.__name__
    ]
    if len(own) != 1:
        raise OptionError(
            f"{module.__name__} must define exactly one Method, it defines {len(own)}"
        )
    return own[0]


def name_for(cls: type[Method]) -> str:
    """What `find` finds a class by: its name, or its module where the name is not registered."""
    known = cls.name in names() and find(cls.name) is cls
    return cls.name if known else cls.__module__


def make(name: str, options: Mapping[str, Any]) -> Method:
    """The method called `name` with these options, values of their types; lists become tuples.

    Raises:
        OptionError: unknown method or option, with the known ones, or a wrong value.
    """
    return make_of(find(name), options)


def make_of(cls: type[Method], options: Mapping[str, Any]) -> Method:
    """A method of this class with these options, as `make` reads them."""
    known = options_of(cls)
    for option in options:
        require_option(cls, option)
    return cls(**{o: known[o].typed(value, f"{cls.name}: ") for o, value in options.items()})


def require_option(cls: type[Method], name: str, prefix: str = "") -> None:
    """Raise `OptionError` with the known options unless the method has this one."""
    if name not in options_of(cls):
        known = ", ".join(options_of(cls)) or "it has none"
        raise OptionError(f"{prefix}{cls.name} has no option {name!r}; its options: {known}", name)


def sheet(cls: type[Method]) -> dict[str, Any]:
    """Everything there is to know about a method, for JSON; its rule as its module says it."""
    return {
        "name": cls.name,
        "lossless": cls.lossless,
        "drafter": cls.drafter,
        "citation": cls.citation,
        "rule": inspect.getdoc(sys.modules[cls.__module__]) or inspect.getdoc(cls) or cls.name,
        "options": [
            {
                "name": option.name,
                "type": option.form,
                "default": jsonable(option.default),
                "description": option.help,
            }
            for option in options_of(cls).values()
        ],
    }


def describe(method: Method) -> dict[str, Any]:
    """Name, options and contract of a method, for JSON."""
    return {
        "name": method.name,
        "options": jsonable(dataclasses.asdict(method)),
        "lossless": method.is_lossless,
    }

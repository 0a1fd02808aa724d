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
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any

from mtad.core.names import did_you_mean, same_name
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


def without_draft(among: Iterable[str] | None = None) -> list[str]:
    """Names of the methods that need no draft model; of all, or among those given."""
    known = names() if among is None else among
    return [name for name in known if find(name).drafter != "draft"]


def require_draft(method: Method, has_draft: object, how: str = "give --draft-model") -> None:
    """Raise `ValueError` where a method needs a draft model and there is none.

    Args:
        method: that is to decode.
        has_draft: whether there is a draft.
        how: the user gives one.
    """
    if method.drafted_by == "draft" and not has_draft:
        raise ValueError(
            f"{method.name} needs a draft model; {how}, or take a method that needs none: "
            f"{', '.join(without_draft())}"
        )


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

    Capitals, and hyphens in place of underscores, make no difference.

    Raises:
        OptionError: no such method, with the known ones, or one that cannot be imported.
    """
    if "." not in name:
        name = known_name(name, names())
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


def known_name(name: str, known: Collection[str], where: str = "") -> str:
    """The one of the known names that is meant; raises `OptionError` with them if there is none."""
    found = same_name(name, known)
    if found is None:
        near = did_you_mean(name, known)
        raise OptionError(
            f"there is no method {name!r}{where}{near}; known methods: {', '.join(known)}"
        )
    return found


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
        near, known = did_you_mean(name, options_of(cls)), ", ".join(options_of(cls))
        raise OptionError(
            f"{prefix}{cls.name} has no option {name!r}{near}; its options: "
            f"{known or 'it has none'}",
            name,
        )


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

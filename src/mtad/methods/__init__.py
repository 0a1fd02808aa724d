"""The registry of methods: one file per method, the file's name is the method's name."""

from __future__ import annotations

import importlib
import pkgutil

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

"""From flags to a method with its options."""

from __future__ import annotations

import dataclasses
from typing import Any

from mtad import methods
from mtad.cli.flags import SHORT_FLAGS, MethodFlags, spelled
from mtad.core.schema import options_of
from mtad.errors import OptionError
from mtad.speculative.method import Method


def make_method(flags: MethodFlags) -> Method:
    """The method with its options: those of the file that was named, then those of the flags.

    Raises:
        ValueError: unknown name, wrong type, impossible value, or an option given twice.
    """
    base = flags.read(flags.config).get("method") if flags.config else None
    cls = methods.find(flags.method)
    known = options_of(cls)
    values: dict[str, Any] = {}
    for flag, name, text in _assignments(flags):
        methods.require_option(cls, name, f"{flag}: ")
        if name in values:
            raise OptionError(f"{flag}: {name} is given twice", name)
        values[name] = known[name].parsed(text)
    return dataclasses.replace(base, **values) if type(base) is cls else cls(**values)


def _assignments(flags: MethodFlags) -> list[tuple[str, str, str]]:
    """Flag, option and value of all that was said about the method."""
    found = []
    for text in flags.option or ():
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"-o {text}: expected NAME=VALUE, such as -o accept_threshold=0.5")
        found.append((f"-o {text}", name.strip().replace("-", "_"), value.strip()))
    for name in SHORT_FLAGS:
        if (value := getattr(flags, name)) is not None:
            found.append((spelled(name), name, value))
    return found

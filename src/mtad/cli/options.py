"""From flags to a method with its options."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
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
    values = options_given(cls, _assignments(flags))
    return dataclasses.replace(base, **values) if type(base) is cls else cls(**values)


def options_given(cls: type[Method], assignments: Iterable[tuple[str, str, str]]) -> dict[str, Any]:
    """The values of a method's options.

    Args:
        cls: the method.
        assignments: flag, option and text of each, as `assignment` returns them.

    Raises:
        OptionError: an unknown option, one that is given twice, or a value of a wrong type.
    """
    values: dict[str, Any] = {}
    for flag, name, text in assignments:
        methods.require_option(cls, name, f"{flag}: ")
        if name in values:
            raise OptionError(f"{flag}: {name} is given twice", name)
        values[name] = options_of(cls)[name].parsed(text)
    return values


def assignment(flag: str, text: str) -> tuple[str, str, str]:
    """The flag with its text, and the option and the value in NAME=VALUE.

    Raises:
        ValueError: there is no "=".
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"{flag} {text}: expected NAME=VALUE, such as {flag} accept_threshold=0.5")
    return f"{flag} {text}", name.strip().replace("-", "_"), value.strip()


def _assignments(flags: MethodFlags) -> Iterator[tuple[str, str, str]]:
    """Flag, option and text of all that was said about the method."""
    for text in flags.option or ():
        yield assignment("-o", text)
    for name in SHORT_FLAGS:
        if (text := getattr(flags, name)) is not None:
            yield spelled(name), name, text

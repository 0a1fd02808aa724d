"""The fields of a dataclass as options: type, range, default and help of each.

Type and range are the field's annotation; what it means is in a `Doc` there, or in the class
docstring's `Attributes:` section. Flags, files, HTTP and documentation are made from this. Knows no
method and no model.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap
import typing
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any

from mtad.core.names import did_you_mean
from mtad.core.options import doc_of, parse, type_name, typed
from mtad.errors import OptionError


@dataclass(frozen=True)
class Option:
    """A field of a dataclass.

    Attributes:
        name: of the field.
        kind: its type, with ranges.
        type: its type alone.
        help: what it means, for people.
        field: of the dataclass.
    """

    name: str
    kind: Any
    type: Any
    help: str
    field: dataclasses.Field[Any]

    @property
    def default(self) -> Any:
        """Its value where none is given, None where there is none; made anew each time."""
        if self.field.default_factory is not dataclasses.MISSING:
            return self.field.default_factory()
        return None if self.field.default is dataclasses.MISSING else self.field.default

    @property
    def form(self) -> str:
        """What a value looks like on the command line, in words, without its range."""
        return type_name(self.kind)

    def typed(self, value: Any, prefix: str = "") -> Any:
        """The value as one of the field's type: an integer is a number, a list is a tuple.

        Raises:
            OptionError: it is of another type or out of the range, with what is allowed.
        """
        return typed(value, self.kind, self.name, prefix)

    def parsed(self, text: str) -> Any:
        """The value that a text means: "none", "true", "0.5", "4,2,2".

        Raises:
            OptionError: it means none of the field's type. Ranges are not looked at.
        """
        return parse(text, self.kind, self.name)


@cache
def options_of(cls: Any) -> Mapping[str, Option]:
    """The options of a dataclass by name, in its order."""
    hints, types = typing.get_type_hints(cls, include_extras=True), typing.get_type_hints(cls)
    described = attribute_docs(cls.__doc__ or "")
    return MappingProxyType(
        {
            f.name: Option(
                f.name,
                hints[f.name],
                types[f.name],
                doc_of(hints[f.name]).help or described.get(f.name, ""),
                f,
            )
            for f in dataclasses.fields(cls)
        }
    )


def check_fields(values: Any, prefix: str = "") -> None:
    """Refuse a dataclass with a field of another type than declared, or out of its range.

    Raises:
        OptionError: naming the first such field.
    """
    cls: Any = type(values)
    for option in options_of(cls).values():
        option.typed(getattr(values, option.name), prefix)


def require_known(
    names: Iterable[str],
    known: Collection[str],
    what: str,
    hints: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Refuse a name that nothing is known by.

    Args:
        names: that were given.
        known: those that there are.
        what: what they are names of.
        hints: what to do about some that there are not.

    Raises:
        OptionError: with the known ones.
    """
    for name in names:
        if name not in known:
            hint = f" ({hints[name]})" if name in hints else did_you_mean(name, known)
            raise OptionError(
                f"unknown {what} {name!r}{hint}; known ones: {', '.join(sorted(known))}", name
            )


def attribute_docs(docstring: str) -> dict[str, str]:
    """The descriptions of a docstring's `Attributes:` section, by name."""
    section = re.search(r"^Attributes:\n((?:[ ]+.*\n?|\n)+)", inspect.cleandoc(docstring), re.M)
    found: dict[str, str] = {}
    names: list[str] = []
    for line in textwrap.dedent(section[1]).rstrip().split("\n") if section else ():
        head = re.match(r"(\w+(?:, \w+)*):\s*(.*)", line)
        if head:
            names = head[1].split(", ")
            found |= dict.fromkeys(names, head[2])
        else:
            found |= {name: f"{found[name]} {line.strip()}".strip() for name in names}
    return found

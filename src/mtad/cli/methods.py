"""`mtad methods`: what there is, and what each option means, from the methods' own docstrings."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import sys
import textwrap
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mtad import methods
from mtad.cli.options import find_method
from mtad.core.options import jsonable, option_types, type_name
from mtad.speculative.method import Method


def show(name: str | None, as_json: bool) -> None:
    """Print all methods, or one of them."""
    found = [find_method(n) for n in ([name] if name else methods.names())]
    if as_json:
        sheets = [sheet(cls) for cls in found]
        print(json.dumps(sheets[0] if name else sheets, ensure_ascii=False, allow_nan=False))
    elif name:
        _show_one(found[0])
    else:
        _console().print(_table(found))


def sheet(cls: type[Method]) -> dict[str, Any]:
    """Everything there is to know about a method, for JSON."""
    described, kinds = attribute_docs(cls.__doc__ or ""), option_types(cls)
    options = [
        {
            "name": field.name,
            "type": type_name(kinds[field.name]),
            "default": jsonable(_default(field)),
            "description": described.get(field.name, ""),
        }
        for field in dataclasses.fields(cls)
    ]
    return {
        "name": cls.name,
        "lossless": cls.lossless,
        "drafter": cls.drafter,
        "citation": cls.citation,
        "rule": inspect.getdoc(sys.modules[cls.__module__]) or "",
        "options": options,
    }


def contract(cls: type[Method]) -> str:
    """Whether texts follow the target's law exactly, in words."""
    if not cls.lossless:
        return "lossy"
    depends = cls.is_lossless is not Method.is_lossless
    return "lossless, but see its options" if depends else "lossless"


def attribute_docs(docstring: str) -> dict[str, str]:
    """The descriptions of a docstring's Attributes section, by name."""
    section = re.search(r"^Attributes:\n((?:[ ]+.*\n?|\n)+)", inspect.cleandoc(docstring), re.M)
    found: dict[str, str] = {}
    names: list[str] = []
    for line in textwrap.dedent(section[1]).splitlines() if section else ():
        head = re.match(r"(\w+(?:, \w+)*):\s*(.*)", line)
        if head:
            names = head[1].split(", ")
            found |= dict.fromkeys(names, head[2])
        else:
            found |= {name: f"{found[name]} {line.strip()}".strip() for name in names}
    return found


def _console() -> Console:
    """Wide where the output goes to a file, so that no cell is cut."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 200)


def _table(found: list[type[Method]]) -> Table:
    table = Table("method", "text follows the target's law", "drafter", "options", "citation")
    for cls in found:
        options = ", ".join(f"{f.name}={_text(_default(f))}" for f in dataclasses.fields(cls))
        cells = (cls.name, contract(cls), cls.drafter, options or "–", cls.citation)
        table.add_row(*map(Text, cells))
    return table


def _show_one(cls: type[Method]) -> None:
    facts, console = sheet(cls), _console()
    head = f" · {contract(cls)} · {facts['citation']}\n"
    console.print(Text.assemble((facts["name"], "bold"), head))
    console.print(Text(facts["rule"]), soft_wrap=True)
    table = Table("option", "value", "default", "meaning")
    for field, option in zip(dataclasses.fields(cls), facts["options"], strict=True):
        row = (option["name"], option["type"], _text(_default(field)), option["description"])
        table.add_row(*map(Text, row))
    if facts["options"]:
        console.print(Text(), table)


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def _text(value: Any) -> str:
    """A value as it is written after `-o name=`."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return "none" if value is None else str(value)

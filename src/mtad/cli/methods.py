"""`mtad methods`: what there is, and what each option means, from the methods' own docstrings."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mtad import methods
from mtad.cli.printing import print_json
from mtad.core.schema import options_of
from mtad.speculative.method import Method


def show(name: str | None, as_json: bool) -> None:
    """Print all methods, or one of them."""
    found = [methods.find(n) for n in ([name] if name else methods.names())]
    if as_json:
        sheets = [methods.sheet(cls) for cls in found]
        print_json(sheets[0] if name else sheets)
    elif name:
        _show_one(found[0])
    else:
        _console().print(_table(found))


def contract(cls: type[Method]) -> str:
    """Whether texts follow the target's law exactly, in words."""
    if not cls.lossless:
        return "lossy"
    depends = cls.is_lossless is not Method.is_lossless
    return "lossless, but see its options" if depends else "lossless"


def _console() -> Console:
    """Wide where the output goes to a file, so that no cell is cut."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 240)


def _table(found: list[type[Method]]) -> Table:
    table = Table("method", "text follows the target's law", "drafter", "options", "citation")
    for cls in found:
        options = ", ".join(f"{o.name}={as_typed(o.default)}" for o in options_of(cls).values())
        cells = (cls.name, contract(cls), cls.drafter, options or "–", cls.citation)
        table.add_row(*map(Text, cells))
    return table


def _show_one(cls: type[Method]) -> None:
    facts, console = methods.sheet(cls), _console()
    head = f" · {contract(cls)} · {facts['citation']}\n"
    console.print(Text.assemble((facts["name"], "bold"), head))
    console.print(Text(facts["rule"]), soft_wrap=True)
    table = Table("option", "value", "default", "meaning")
    for option in options_of(cls).values():
        table.add_row(*map(Text, (option.name, option.form, as_typed(option.default), option.help)))
    if facts["options"]:
        console.print(Text(), table)


def as_typed(value: Any) -> str:
    """A value as it is typed after `-o name=`."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return "none" if value is None else str(value)

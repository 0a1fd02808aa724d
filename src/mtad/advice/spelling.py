"""Methods as the command line takes them, and figures with their intervals."""

from __future__ import annotations

from mtad import methods
from mtad.bench.statistics import Estimate
from mtad.core.schema import options_of
from mtad.speculative.method import Method

ALWAYS = ("num_draft_tokens", "k_config")
"""Options that are written out even where they are the defaults."""


def flags_of(method: Method) -> list[str]:
    """What is drafted, and the options that are not the method's defaults."""
    default, found = type(method)(), []
    for name in options_of(type(method)):
        value = getattr(method, name)
        if name in ALWAYS or value != getattr(default, name):
            text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            found.append(f"-o {name}={text}")
    return found


def named(method: Method) -> str:
    """The method's name and its options."""
    return " ".join([methods.name_for(type(method)), *flags_of(method)])


def interval(found: Estimate) -> str:
    """A value with its interval."""
    if found.value is None:
        return "–"
    ends = "" if found.low is None else f" [{found.low:.2f}, {found.high:.2f}]"
    return f"{found.value:.2f}{ends}"

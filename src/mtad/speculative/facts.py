"""Facts of a method that others ask for: what its rule reads, and its dial.

They are class attributes of a `Method`, checked when the class is made. Replay, sweeps and the
server read them and ask for no method's name. Knows no method.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_type_hints


@dataclass(frozen=True)
class Reads:
    """What an acceptance rule reads of an iteration; a trace must hold it to be replayed.

    `verify` must take the shape of the draft from the tree, never from the method's options.

    Attributes:
        tree: which trees it can verify: "any"; one "chain"; one or more "chains" that part at the
            root; one "beam", the best one where a tree holds all; or all "beams".
        draft: "nothing", the "values" of the drafted tokens (their log-probabilities), or the
            whole "distributions" that they were drawn from.
        target: the "values" of the drafted tokens, or all "logits".
    """

    tree: Literal["any", "chain", "chains", "beam", "beams"] = "any"
    draft: Literal["nothing", "values", "distributions"] = "nothing"
    target: Literal["values", "logits"] = "logits"

    def __post_init__(self) -> None:
        """Refuse unknown words."""
        for name, kind in get_type_hints(Reads).items():
            if (value := getattr(self, name)) not in get_args(kind):
                known = ", ".join(map(repr, get_args(kind)))
                raise ValueError(f"Reads: {name} is {value!r}; it must be one of {known}")


@dataclass(frozen=True)
class Dial:
    """The option that trades quality for speed, and the values to try unless others are given."""

    option: str
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse values that no sweep could use."""
        values = self.values
        if not values or len({*values}) < len(values) or not all(map(math.isfinite, values)):
            raise ValueError(
                f"Dial: values are {values!r}; they must be one or more finite numbers, each once"
            )


SHARES = tuple(n / 10 for n in range(11))
"""Values of a dial that goes from 0 to 1."""

_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "name": (
        lambda v: isinstance(v, str) and v != "",
        "the name that users type, that of its file",
    ),
    "lossless": (lambda v: isinstance(v, bool), "True or False"),
    "citation": (lambda v: isinstance(v, str), "a text that says where the method comes from"),
    "drafter": (lambda v: v in ("draft", "target", "none"), "'draft', 'target' or 'none'"),
    "drafting": (
        lambda v: isinstance(v, tuple) and all(isinstance(name, str) for name in v),
        "a tuple with the names of the options that say what is drafted, () for none",
    ),
    "judges_candidates": (lambda v: isinstance(v, bool), "True or False"),
    "entries": (
        lambda v: isinstance(v, tuple) and all(isinstance(name, str) and name for name in v),
        "a tuple with the names of the numbers that are kept of each text, () for none",
    ),
    "dial": (lambda v: v is None or isinstance(v, Dial), "a Dial, or None"),
    "reads": (lambda v: v is None or isinstance(v, Reads), "a Reads, or None if it is not known"),
}


def check_facts(cls: type) -> None:
    """Raise `ValueError` for a class of methods with a missing or wrong fact."""
    for name, (is_allowed, allowed) in _CHECKS.items():
        if not hasattr(cls, name):
            raise ValueError(f"{cls.__name__} has no {name}; it must be {allowed}")
        if not is_allowed(value := getattr(cls, name)):
            raise ValueError(f"{cls.__name__}: {name} is {value!r}; it must be {allowed}")
    _check_options(cls)


def _check_options(cls: Any) -> None:
    """Raise `ValueError` where a fact names an option that the class does not have."""
    annotated = {name for base in cls.__mro__ for name in inspect.get_annotations(base)}
    options = annotated - {*_CHECKS}
    named = dict.fromkeys(cls.drafting, "drafting")
    named |= {} if cls.dial is None else {cls.dial.option: "dial"}
    for option, fact in named.items():
        if option not in options:
            known = ", ".join(sorted(options)) or "it has none"
            raise ValueError(f"{cls.__name__}: {fact} names {option!r}; its options: {known}")

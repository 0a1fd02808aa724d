"""Sampling settings as requests give them: made from their definition, `SamplingParams`.

Knows no model and no scheduler.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from mtad.core.options import bounds_of, notes
from mtad.core.schema import Option, options_of
from mtad.sampling.params import NEUTRAL, SamplingParams, numeric_settings, setting_of

NAMES = {name: setting_of(o).http or name for name, o in options_of(SamplingParams).items()}
"""What requests call each setting."""
_LEFT_OUT = {
    "seed": "Drawn if left out; the response has it.",
    "max_new_tokens": "As many as the server allows if left out.",
}


_ALSO_OFF = {"top_k": -1}
"""What requests may give beside the neutral value: vLLM's word for all tokens."""


def range_of(option: Option) -> dict[str, Any]:
    """The finite bounds of a setting in a request, by the names of `annotated_types`."""
    return bounds_of(setting_of(option).http_range or notes(option.kind))


def request_fields() -> dict[str, Any]:
    """A field per setting that is a number, for a model of a request; all may be null."""
    return {
        NAMES[name]: (
            _kind(option) | None,
            Field(None, description=described(option)),
        )
        for name, option in numeric_settings().items()
    }


def _kind(option: Option) -> Any:
    """The type of a setting in a request."""
    kind: Any = Annotated[option.type, Field(**range_of(option))]
    return kind | Literal[_ALSO_OFF[option.name]] if option.name in _ALSO_OFF else kind


def described(option: Option, default: float | None = None) -> str:
    """What a setting means, and what it is in requests without it: `default`, or its own."""
    own = _LEFT_OUT.get(option.name, f"{option.default:g} if left out.")
    return f"{option.help} {own if default is None else f'{default:g} if left out.'}"


def given_settings(body: BaseModel) -> dict[str, Any]:
    """The settings that a request gives, by the names of `SamplingParams`."""
    values = {name: getattr(body, NAMES[name]) for name in numeric_settings()}
    return {
        name: getattr(NEUTRAL, name) if value == _ALSO_OFF.get(name) else value
        for name, value in values.items()
        if value is not None
    }


def bounds(option: Option) -> tuple[int | float | None, int | float | None]:
    """The least and the largest value that a request may give, None where there is no bound.

    A bound that is not taken itself, as 0 of "> 0", counts for numbers; integers end before it.
    """
    found = range_of(option)
    below = found.get("lt")
    if below is not None and option.type is int:
        below -= 1
    return found.get("ge", found.get("gt")), found.get("le", below)

"""Values checked against an annotation: typed ones (Python, TOML, JSON) and texts (flags).

A range is written with `annotated_types`, such as `Annotated[int, Ge(1)]`, which pydantic reads
too. pydantic does not do this part: its strict mode takes no list for a tuple and no infinity
without NaN, and it costs a tenth of a second of every start. Knows no dataclass with options.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from annotated_types import BaseMetadata, Ge, Gt, Le, Lt, MinLen, Predicate

from mtad.core.names import did_you_mean
from mtad.errors import OptionError

Count: TypeAlias = Annotated[int, Ge(1)]
Finite: TypeAlias = Annotated[float, Gt(-math.inf), Lt(math.inf)]

_NAMES = {
    int: "an integer",
    float: "a number",
    bool: "true or false",
    str: "a text",
    Path: "a text",
}
_TRUTH = dict.fromkeys(("true", "yes", "on", "1"), True) | dict.fromkeys(
    ("false", "no", "off", "0"), False
)
_MISFITS = (TypeError, ValueError, KeyError, OverflowError)
"""What reading a value raises where it does not fit a type."""
_SIGNS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
_Bound = Ge | Gt | Le | Lt


@dataclass(frozen=True)
class Doc:
    """What people read about a field, beside its range in the annotation.

    Attributes:
        help: what it means; empty where the docstring says it.
        allowed: its range in words; empty for general ones.
        flag: its flag on the command line; empty for one of the field's name.
        metavar: what a value of the flag looks like; empty for a general word.
    """

    help: str = ""
    allowed: str = ""
    flag: str = ""
    metavar: str = ""


def doc_of(kind: Any) -> Doc:
    """What an annotation says for people."""
    return next((note for note in notes(kind) if isinstance(note, Doc)), Doc())


def notes(kind: Any) -> tuple[Any, ...]:
    """What an annotation says beside the type."""
    return kind.__metadata__ if typing.get_origin(kind) is Annotated else ()


def plain(kind: Any) -> Any:
    """The type without what is said beside it."""
    return typing.get_args(kind)[0] if typing.get_origin(kind) is Annotated else kind


# --- typed values


def typed(value: Any, kind: Any, name: str, prefix: str = "") -> Any:
    """The value as one of type `kind`: an integer is a number, a list is a tuple.

    Raises:
        OptionError: it is of another type or out of the range; the message calls it `name`, after
            `prefix`, and says what is allowed.
    """
    try:
        return _typed(value, kind)
    except _MISFITS:
        message = f"{prefix}{name} is {value!r}{_near(value, kind)}; it must be {allowed(kind)}"
        raise OptionError(message, name) from None


def _typed(value: Any, kind: Any) -> Any:
    inner = plain(kind)
    origin, parts = typing.get_origin(inner), typing.get_args(inner)
    if origin in (typing.Union, types.UnionType):
        value = _first(parts, lambda part: _typed(value, part))
    elif origin is tuple and isinstance(value, list | tuple):
        value = tuple(_typed(one, parts[0]) for one in value)
    else:
        value = _single(value, inner)
    if not all(_meets(value, mark) for mark in notes(kind)):
        raise TypeError(kind)
    return value


def choices(kind: Any) -> list[str]:
    """The texts that a type allows one of; none where it is not made of them."""
    inner = plain(kind)
    if typing.get_origin(inner) is Literal:
        return [one for one in typing.get_args(inner) if isinstance(one, str)]
    is_union = typing.get_origin(inner) in (typing.Union, types.UnionType)
    parts = typing.get_args(inner) if is_union else ()
    return [one for part in parts for one in choices(part)]


def _near(value: Any, kind: Any) -> str:
    """A suggestion for a text that is nearly one of the choices."""
    return did_you_mean(value, choices(kind)) if isinstance(value, str) else ""


def _first(kinds: Iterable[Any], read: Callable[[Any], Any]) -> Any:
    """What `read` returns for the first of the types that fits."""
    for kind in kinds:
        with suppress(*_MISFITS):
            return read(kind)
    raise TypeError(kinds)


def _single(value: Any, kind: Any) -> Any:
    """The value as one of a type that is not made of others."""
    origin, choices = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        fits = any(type(value) is type(choice) and value == choice for choice in choices)
    elif kind is float or kind is int:
        number = isinstance(value, Integral if kind is int else Real)
        fits = number and not isinstance(value, bool) and value == value  # not NaN
        value = kind(value) if fits else value
    elif kind is Path:
        fits = isinstance(value, str | Path)
        value = Path(value) if fits else value
    else:
        fits = kind is Any or (
            type(value) is kind if kind in _NAMES else isinstance(value, origin or kind)
        )
    if not fits:
        raise TypeError(kind)
    return value


def _meets(value: Any, mark: Any) -> bool:
    """Whether a value is in a range."""
    match mark:
        case Ge(ge=bound):
            return bool(value >= bound)
        case Gt(gt=bound):
            return bool(value > bound)
        case Le(le=bound):
            return bool(value <= bound)
        case Lt(lt=bound):
            return bool(value < bound)
        case MinLen(min_length=least):
            return len(value) >= least
        case Predicate(func=holds):
            return bool(holds(value))
        case BaseMetadata():
            raise NotImplementedError(f"{mark!r} is unknown; use Ge, Gt, Le, Lt, MinLen, Predicate")
    return True


# --- texts


def parse(text: str, kind: Any, name: str) -> Any:
    """The value of type `kind` that `text` means.

    Raises:
        OptionError: it is not of that type.
    """
    try:
        return _parsed(text, kind)
    except _MISFITS:
        message = f"{name} is {text!r}{_near(text, kind)}; it must be {type_name(kind)}"
        raise OptionError(message, name) from None


def _parsed(text: str, kind: Any) -> Any:
    kind = plain(kind)
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        none_first = sorted(inner, key=lambda part: part is not types.NoneType)
        return _first(none_first, lambda part: _parsed(text, part))
    if origin is Literal:
        return {str(choice): choice for choice in inner}[text]
    if origin is tuple:
        return tuple(_parsed(part.strip(), inner[0]) for part in text.split(","))
    if kind is bool or kind is types.NoneType:
        return ({"none": None} if kind is types.NoneType else _TRUTH)[text.lower()]
    value = kind(text)
    if isinstance(value, float) and math.isnan(value):
        raise ValueError(text)
    return value


# --- words


def type_name(kind: Any) -> str:
    """What a value of this type looks like on the command line, for people."""
    kind = plain(kind)
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _or(map(type_name, inner))
    if origin is Literal:
        return _or(map(str, inner))
    if origin is tuple:
        return f"{_plural(inner[0])} with commas between them"
    return "none" if kind is types.NoneType else _NAMES.get(kind, str(kind))


def _plural(kind: Any) -> str:
    return f"{_NAMES[plain(kind)].split()[-1]}s"


def _or(words: Iterable[str]) -> str:
    """The words as a list: "a, b or c"."""
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last


def allowed(kind: Any) -> str:
    """What values of this type there may be, for people."""
    if words := doc_of(kind).allowed:
        return words
    inner = plain(kind)
    origin, parts = typing.get_origin(inner), typing.get_args(inner)
    if origin in (typing.Union, types.UnionType):
        return _or(map(allowed, parts))
    noun = f"a list of {_plural(parts[0])}" if origin is tuple else type_name(inner)
    return _ranged(noun, [mark for mark in notes(kind) if isinstance(mark, _Bound)])


def bounds_of(marks: Iterable[Any]) -> dict[str, Any]:
    """The finite bounds among what an annotation says, by their names: ge, gt, le, lt."""
    bounds = (dataclasses.asdict(mark) for mark in marks if isinstance(mark, _Bound))
    return {sign: value for one in bounds for sign, value in one.items() if math.isfinite(value)}


def _ranged(noun: str, marks: Sequence[Any]) -> str:
    """A noun with its range: "a number >= 0", "an integer from 1 to 9", "a number in (0, 1]"."""
    bounds = bounds_of(marks)
    if len(bounds) < len(marks):
        noun = noun.replace("a number", "a finite number")
    if len(bounds) < 2:
        return " ".join([noun, *(f"{_SIGNS[sign]} {bound}" for sign, bound in bounds.items())])
    low, high = bounds.get("ge", bounds.get("gt")), bounds.get("le", bounds.get("lt"))
    if bounds.keys() == {"ge", "le"}:
        return f"{noun} from {low} to {high}"
    left, right = "[" if "ge" in bounds else "(", "]" if "le" in bounds else ")"
    return f"{noun} in {left}{low}, {high}{right}"


def jsonable(value: Any) -> Any:
    """The same value for JSON, which has neither infinity nor NaN: they become text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(v) for v in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return jsonable(dataclasses.asdict(value))
    return value

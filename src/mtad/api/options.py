"""What callers may give, in one form: methods with their options, seeds, sampling options.

Knows no model and no tokenizer.
"""

from __future__ import annotations

import dataclasses
import json
import math
import secrets
import tomllib
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

from mtad import methods
from mtad.methods.mtad import MTAD
from mtad.model.tokenizer import Array
from mtad.sampling.params import SamplingParams
from mtad.speculative.method import Method

T = TypeVar("T")
Seed: TypeAlias = int | Sequence[int] | Array | None
"""One for all prompts, one per prompt, or None for random ones."""

_INSTEAD = {
    "max_tokens": "max_new_tokens=…",
    "max_length": "max_new_tokens=…",
    "do_sample": "temperature=0.0 for greedy decoding, a higher one to sample",
    "num_beams": "method=mtad.BeamSearch(num_beams=…)",
}
"""Names that other libraries use, and what to write here."""

_NAMES = {int: "an integer", float: "a number", bool: "true or false", str: "a text"}


@dataclass(frozen=True)
class MethodConfig:
    """A way to decode, as a file keeps it.

    Attributes:
        method: the method with its options.
        sampling: what `ModelPair.generate` is told beyond it; the rest keeps its defaults.
    """

    method: Method
    sampling: Mapping[str, Any] = field(default_factory=dict)

    def as_toml(self) -> str:
        """The text of a file that `read_config` reads; None, which TOML lacks, is left out."""
        options = {n: getattr(self.method, n) for n in option_types(type(self.method))}
        name = self.method.name if self.method.name in methods.names() else None
        lines = [f"method = {_toml(name or type(self.method).__module__)}"]
        for head, table in (("options", options), ("sampling", self.sampling)):
            lines += ["", f"[{head}]"]
            lines += [f"{n} = {_toml(v)}" for n, v in table.items() if v is not None]
        return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    """A text, number, truth value or list as TOML writes it."""
    if isinstance(value, float):
        return repr(value)  # JSON would write Infinity
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def read_config(path: Path) -> MethodConfig:
    """The configuration in a TOML file: `method = "…"`, `[options]` and `[sampling]`.

    Raises:
        ValueError: it is missing or no TOML, or has an unknown key or a wrong value.
    """
    return from_toml(path, _config)


def from_toml(path: Path, read: Callable[[dict[str, Any]], T]) -> T:
    """What `read` makes of the table in a TOML file.

    Raises:
        ValueError: the file is missing or no TOML, or `read` says so; the message names it.
    """
    try:
        return read(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeError) as error:
        raise ValueError(f"{path} is not TOML: {error}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _config(table: dict[str, Any]) -> MethodConfig:
    known = {"method": str, "options": dict, "sampling": dict}
    _check_keys(table, known, "key")
    if "method" not in table:
        raise ValueError('there is no method; give the name of one, such as method = "mtad"')
    for key, value in table.items():
        if not isinstance(value, known[key]):
            form = 'a name, such as "mtad"' if key == "method" else f"a table, [{key}]"
            raise ValueError(f"{key} is {value!r}; it must be {form}")
    method = method_from(table["method"], table.get("options", {}))
    return MethodConfig(method, _file_sampling(table.get("sampling", {})))


def _file_sampling(given: dict[str, Any]) -> dict[str, Any]:
    """The sampling options of a file; stop strings as a list."""
    kinds = {n: k for n, k in option_types(SamplingParams).items() if k in (int, float)}
    del kinds["seed"]  # of a run, not of a way to decode
    kinds |= {"stop": tuple[str, ...], "ignore_eos": bool}
    _check_keys(given, kinds, "sampling option")
    chosen = {name: typed(value, kinds[name], name) for name, value in given.items()}
    SamplingParams(**{n: v for n, v in chosen.items() if n not in ("stop", "ignore_eos")})
    return chosen | ({"stop": list(chosen["stop"])} if "stop" in chosen else {})


def _check_keys(given: Mapping[str, Any], known: Mapping[str, Any], what: str) -> None:
    for name in given:
        if name not in known:
            raise ValueError(f"unknown {what} {name!r}; known ones: {', '.join(sorted(known))}")


def method_of(given: Any) -> Method:
    """The method that is meant: MTAD if None, one with its defaults if a name.

    Raises:
        ValueError: it is a class or something else, or there is no method of this name.
    """
    if isinstance(given, str):
        return methods.find(given)()
    if isinstance(given, type):
        name = given.__name__
        raise ValueError(f"method is the class {name}; give an instance, such as {name}()")
    if given is None:
        return MTAD()
    if not isinstance(given, Method):
        raise ValueError(f"method is {given!r}; it must be a Method or the name of one")
    return given


def method_from(name: str, options: Mapping[str, Any]) -> Method:
    """The method called `name` with these options, values of their types; lists become tuples.

    Raises:
        ValueError: unknown method or option, with the known ones, or a value of a wrong type.
    """
    cls = methods.find(name)
    kinds = option_types(cls)
    for option in options:
        if option not in kinds:
            raise ValueError(no_such_option(cls, option))
    return cls(**{o: typed(v, kinds[o], f"{cls.name}: {o}") for o, v in options.items()})


def no_such_option(cls: type[Method], name: str) -> str:
    """What to say about an option that the method does not have."""
    known = ", ".join(option_types(cls)) or "it has none"
    return f"{cls.name} has no option {name!r}; its options: {known}"


def option_types(cls: type[Any]) -> dict[str, Any]:
    """The types of a dataclass's fields, by name."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def typed(value: Any, kind: Any, name: str) -> Any:
    """The value as one of type `kind`: an integer is a number, a list is a tuple.

    Raises:
        ValueError: it is of another type; the message calls it `name`.
    """
    try:
        return _typed(value, kind)
    except TypeError:
        raise ValueError(f"{name} is {value!r}; it must be {_form(kind)}") from None


def _typed(value: Any, kind: Any) -> Any:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _first_typed(value, inner)
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_typed(part, inner[0]) for part in value)
    if origin is Literal:
        fits = any(type(value) is type(choice) and value == choice for choice in inner)
    elif kind is float:
        fits = type(value) in (int, float) and not math.isnan(value)
        value = float(value) if fits else value
    elif kind in _NAMES:
        fits = type(value) is kind
    else:
        fits = isinstance(value, origin or kind)
    if not fits:
        raise TypeError(kind)
    return value


def _first_typed(value: Any, kinds: Sequence[Any]) -> Any:
    """The value by the first of the types that it fits."""
    for kind in kinds:
        try:
            return _typed(value, kind)
        except TypeError:
            continue
    raise TypeError(kinds)


def type_name(kind: Any) -> str:
    """What a value of this type looks like on the command line, for people."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        names = [type_name(k) for k in inner if k is not type(None)]
        return " or ".join([*names, "none"] if type(None) in inner else names)
    if origin is Literal:
        return " or ".join(map(str, inner))
    if origin is tuple:
        return f"{_NAMES[inner[0]].split()[-1]}s with commas between them"
    return _NAMES.get(kind, str(kind))


def _form(kind: Any) -> str:
    """What a value of this type looks like in a file or in Python, for people."""
    if typing.get_origin(kind) is tuple:
        return f"a list of {_NAMES[typing.get_args(kind)[0]].split()[-1]}s"
    return type_name(kind)


def sampling_params(options: dict[str, Any]) -> SamplingParams:
    """`SamplingParams` of these options.

    Raises:
        ValueError: unknown name, with the list of known ones, or impossible value.
    """
    known = {*SamplingParams.__dataclass_fields__, "stop", "ignore_eos"}
    unknown = sorted(set(options) - known)
    if unknown:
        name = unknown[0]
        hint = f" (give {_INSTEAD[name]})" if name in _INSTEAD else ""
        raise ValueError(
            f"unknown sampling option {name!r}{hint}; known ones: {', '.join(sorted(known))}"
        )
    return SamplingParams(**options)


def seeds_for(seed: Seed, count: int) -> list[int]:
    """One seed per prompt: drawn if None, repeated if one number is given."""
    if seed is None:
        return [secrets.randbits(63) for _ in range(count)]
    given: Any = seed.tolist() if isinstance(seed, Array) else seed
    if not isinstance(given, Sequence):
        given = [given] * count
    if len(given) != count:
        raise ValueError(f"{len(given)} seeds were given for {count} prompts; give one or {count}")
    return [int(s) if isinstance(s, Integral) else s for s in given]


def jsonable(value: Any) -> Any:
    """The same value for JSON, which has neither infinity nor NaN: they become text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(v) for v in value]
    return value


def describe(method: Method) -> dict[str, Any]:
    """Name, options and contract of a method, for JSON."""
    return {
        "name": method.name,
        "options": jsonable(dataclasses.asdict(method)),
        "lossless": method.is_lossless,
    }

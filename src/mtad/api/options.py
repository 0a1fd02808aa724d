"""What callers may give, in one form: methods with their options, seeds, sampling options.

Knows no model and no tokenizer.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from numbers import Integral
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from mtad import methods
from mtad.core.options import typed
from mtad.core.prompt import Array
from mtad.core.schema import require_known
from mtad.core.toml import from_toml, require_table
from mtad.methods.mtad import MTAD
from mtad.sampling.params import SamplingParams, numeric_settings
from mtad.speculative.method import Method

T = TypeVar("T")
Seed: TypeAlias = int | Sequence[int] | Array | None
"""One for all prompts, one per prompt, or None for random ones."""

_INSTEAD = {
    "max_tokens": "give max_new_tokens=…",
    "max_length": "give max_new_tokens=…",
    "do_sample": "give temperature=0.0 for greedy decoding, a higher one to sample",
    "num_beams": "give method=mtad.BeamSearch(num_beams=…)",
}
"""Names that other libraries use, and what to write here."""


@dataclass(frozen=True)
class MethodConfig:
    """A way to decode, as a file keeps it.

    Attributes:
        method: the method with its options.
        sampling: further arguments of `ModelPair.generate`; the rest keeps its defaults.
    """

    method: Method
    sampling: Mapping[str, Any] = field(default_factory=dict)

    def as_toml(self) -> str:
        """The text of a file that `read_config` reads; None, which TOML lacks, is left out."""
        name = f"method = {_toml(methods.name_for(type(self.method)))}\n\n"
        return name + _tables(options=asdict(self.method), sampling=self.sampling)


def server_toml(models: Mapping[str, Any], method: Method) -> str:
    """The text of a file that `mtad serve --config` reads.

    Args:
        models: settings of the models, by name; None, which TOML lacks, is left out.
        method: of requests that name none.
    """
    name = {"name": methods.name_for(type(method))}
    return _tables(models=models, method=name | asdict(method))


def _tables(**tables: Mapping[str, Any]) -> str:
    """TOML tables by their names, a blank line between two; None is left out."""
    texts = (
        f"[{head}]\n" + "".join(f"{n} = {_toml(v)}\n" for n, v in table.items() if v is not None)
        for head, table in tables.items()
    )
    return "\n".join(texts)


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


def _config(table: dict[str, Any]) -> MethodConfig:
    require_known(table, ("method", "options", "sampling"), "key")
    name = table.get("method")
    if not isinstance(name, str):
        raise ValueError(f'method is {name!r}; it must be a name, such as method = "mtad"')
    options, sampling = (require_table(table.get(k, {}), k) for k in ("options", "sampling"))
    return MethodConfig(methods.make(name, options), _file_sampling(sampling))


def _file_sampling(given: dict[str, Any]) -> dict[str, Any]:
    """The sampling options of a file; stop strings as a list."""
    kinds = {  # the seed is that of a run
        name: o.kind for name, o in numeric_settings().items() if name != "seed"
    }
    kinds |= {"stop": tuple[str, ...], "ignore_eos": bool}
    require_known(given, kinds, "sampling option")
    chosen = {name: typed(value, kinds[name], name) for name, value in given.items()}
    SamplingParams(**{n: v for n, v in chosen.items() if n not in ("stop", "ignore_eos")})
    return chosen | ({"stop": list(chosen["stop"])} if "stop" in chosen else {})


def method_of(given: Any) -> Method:
    """The method that is meant: MTAD if None, one with its defaults if a name.

    Raises:
        ValueError: it is a class or something else, or no method has this name.
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


def sampling_params(options: dict[str, Any]) -> SamplingParams:
    """`SamplingParams` of these options.

    Raises:
        ValueError: unknown name, with the list of known ones, or impossible value.
    """
    known = {*SamplingParams.__dataclass_fields__, "stop", "ignore_eos"}
    require_known(sorted(options), known, "sampling option", _INSTEAD)
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

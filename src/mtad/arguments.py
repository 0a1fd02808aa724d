"""What callers of `ModelPair` may give, brought into one form: methods, seeds, sampling options.

Knows no model and no tokenizer.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from numbers import Integral
from typing import Any, TypeAlias

from mtad import methods
from mtad.method import Method
from mtad.methods.mtad import MTAD
from mtad.sampling import SamplingParams
from mtad.text import Array

Seed: TypeAlias = int | Sequence[int] | Array | None
"""One for all prompts, one per prompt, or None for random ones."""

_INSTEAD = {
    "max_tokens": "max_new_tokens=…",
    "max_length": "max_new_tokens=…",
    "do_sample": "temperature=0.0 for greedy decoding, a higher one to sample",
    "num_beams": "method=mtad.BeamSearch(num_beams=…)",
}
"""Names that other libraries use, and what to write here."""


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

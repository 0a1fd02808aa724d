"""Checks shapes where signatures name them: the rest of a signature is mypy's alone.

pytest's option `--jaxtyping-packages` wraps every function of these packages. A wrapper costs more
than most of the functions; without those that can find no wrong shape tests take a quarter less.
"""

from __future__ import annotations

import functools
import re
from typing import Any

import jaxtyping

_SHAPE = re.compile(r"\b(Bool|Float|Float64|Int|Num|Shaped)\[")
_WITH_CHECKS = jaxtyping.jaxtyped


def check_named_shapes_only() -> None:
    """Leave functions and dataclasses as they are whose annotations name no shape.

    To be called before the packages are imported.
    """
    jaxtyping.jaxtyped = _checked_if_named


def names_a_shape(found: Any) -> bool:
    """Whether an argument, the result or a field is annotated with a shape."""
    found = getattr(found, "__func__", found)  # of a classmethod or staticmethod
    found = found.fget if isinstance(found, property) else found
    owners = found.__mro__ if isinstance(found, type) else [found]
    annotations = [getattr(owner, "__annotations__", {}) for owner in owners]
    return any(_SHAPE.search(str(given)) for own in annotations for given in own.values())


def _checked_if_named(found: Any = None, *, typechecker: Any) -> Any:
    if found is None:
        return functools.partial(_checked_if_named, typechecker=typechecker)
    return _WITH_CHECKS(found, typechecker=typechecker) if names_a_shape(found) else found

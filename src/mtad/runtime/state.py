"""The state that a program reads and replaces, and the form of it that decides which program fits.

Knows no device and no program.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class State:
    """What an iteration reads and replaces: attributes that hold tensors or values made of them.

    Attributes:
        places: (owner, attribute name), in a fixed order.
        buffers: tensors that the iteration reads and changes in place.
        sizes: numbers from which the shapes of the buffers follow; where they are equal, the
            buffers are the same.
    """

    places: Sequence[tuple[object, str]]
    buffers: Sequence[Tensor] = ()
    sizes: tuple[int, ...] = ()

    @property
    def values(self) -> tuple[Any, ...]:
        """What the attributes hold now."""
        return tuple(getattr(owner, name) for owner, name in self.places)

    @property
    def addresses(self) -> tuple[tuple[int, ...], ...]:
        """Where the buffers are in memory, and their shapes."""
        return tuple((buffer.data_ptr(), *buffer.shape) for buffer in self.buffers)

    def bind(self, values: tuple[Any, ...]) -> None:
        """Make the attributes hold `values`."""
        for (owner, name), value in zip(self.places, values, strict=True):
            setattr(owner, name, value)


def are_same(values: tuple[Any, ...], others: tuple[Any, ...]) -> bool:
    """Whether these are the very same objects, or equal integers."""
    return len(values) == len(others) and all(
        a is b or (isinstance(a, int) and a == b) for a, b in zip(values, others, strict=True)
    )


def _parts(value: Any) -> list[Any]:
    if isinstance(value, tuple):
        return list(value)
    return [getattr(value, f.name) for f in fields(value)] if is_dataclass(value) else []


def tensors_of(value: Any) -> Iterator[Tensor]:
    """All tensors in a value made of tuples and dataclasses."""
    if isinstance(value, Tensor):
        yield value
    for part in _parts(value):
        yield from tensors_of(part)


def mapped(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """The value with `function` applied to all its tensors."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple):
        return tuple(mapped(function, part) for part in value)
    if not is_dataclass(value) or isinstance(value, type):
        return value
    return replace(
        value, **{f.name: mapped(function, getattr(value, f.name)) for f in fields(value)}
    )


def form_of(value: Any) -> Hashable:
    """What decides a program besides the contents of the tensors."""
    if isinstance(value, Tensor):
        return (*value.shape, value.dtype, value.device)
    parts = _parts(value)
    if parts:
        return (type(value).__name__, *map(form_of, parts))
    return value if isinstance(value, Hashable) else repr(value)

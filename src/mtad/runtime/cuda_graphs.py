"""Iterations as captured programs: recorded once per shape, then replayed without any Python.

A captured program has fixed addresses, fixed shapes and fixed host values. `Graphs` keeps one per
form of the state that an iteration reads and replaces, and copies the state to where the program
expects it. What can't be captured runs eagerly, and the reason is kept. Knows no model, no method
and no loop.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mtad.errors import first_line
from mtad.runtime.backend import Backend, CudaBackend, OnPhase, Pace, Program, Recording

PATIENCE = 2
"""Iterations of a form that run eagerly before it is captured: a capture takes as long as two or
three of them, and the first ones allocate what a capture must not."""
LIMIT = 16
"""Most captured programs that are kept, the least recently used leaving first; the numbers of rows
that padded batches of up to 32 have are ten."""


_Key = tuple[Hashable, bool, Hashable]


@dataclass(frozen=True)
class State:
    """What an iteration reads and replaces: attributes that hold tensors or values made of them.

    Attributes:
        places: (owner, attribute name), in a fixed order.
        buffers: tensors that the iteration changes in place.
    """

    places: Sequence[tuple[object, str]]
    buffers: Sequence[Tensor] = ()

    @property
    def values(self) -> tuple[Any, ...]:
        """What the attributes hold now."""
        return tuple(getattr(owner, name) for owner, name in self.places)

    @property
    def form(self) -> Hashable:
        """All that decides a captured program but the contents of tensors."""
        return form_of(self.values), tuple(buffer.data_ptr() for buffer in self.buffers)

    def bind(self, values: tuple[Any, ...]) -> None:
        """Make the attributes hold `values`."""
        for (owner, name), value in zip(self.places, values, strict=True):
            setattr(owner, name, value)


class Graphs:
    """The captured programs of one set of models and caches.

    Args:
        backend: captures; None runs everything eagerly.
        reason: why there is no backend.
        patience: see `PATIENCE`.
        limit: see `LIMIT`.

    Attributes:
        pace: how the last run went: "captured" if it was a replay, "eager" if there will be none,
            or "capturing", rehearsals included.
    """

    def __init__(
        self,
        backend: Backend | None,
        reason: str = "graphs are off",
        patience: int = PATIENCE,
        limit: int = LIMIT,
    ) -> None:
        self.backend, self._no_backend = backend, reason
        self.patience, self.limit = max(1, patience), limit
        self.pace: Pace = "eager"
        self._reasons: dict[Hashable, str] = {}
        self._uses: OrderedDict[Hashable, int] = OrderedDict()
        self._captured: OrderedDict[Hashable, tuple[tuple[Any, ...], Recording]] = OrderedDict()
        self._last: tuple[_Key, tuple[Any, ...]] | None = None

    @classmethod
    def on(cls, devices: Iterable[torch.device]) -> Graphs:
        """Graphs for models on these devices: captured where that is one CUDA device."""
        found = set(devices)
        if any(device.type != "cuda" for device in found):
            return cls(None, "the models are not on a CUDA device")
        if len(found) != 1:
            return cls(None, f"the models are on {len(found)} devices")
        return cls(CudaBackend(found.pop()))

    @property
    def num_captured(self) -> int:
        """Programs that are kept."""
        return len(self._captured)

    @property
    def is_settled(self) -> bool:
        """Whether further runs take as long as the last one."""
        return self.pace != "capturing"

    def reason(self, name: Hashable) -> str | None:
        """Why the iterations of that name run eagerly; None where they may be captured."""
        return self._no_backend if self.backend is None else self._reasons.get(name)

    def run(
        self, name: Hashable, state: State, program: Program, begin: OnPhase, split: bool
    ) -> Tensor:
        """The output of `program`, replayed where it is captured, eager otherwise.

        Args:
            name: equal names, forms of the state and `split` mean equal programs.
            state: all that changes from one iteration to the next.
            program: one iteration, free of effects but those on `state`.
            begin: told the phases; those of a rehearsal that breaks off are told once more.
            split: whether `begin` wants the phases one by one.
        """
        if self.reason(name) is not None:
            self.pace = "eager"
            return program(begin)
        key, before = self._key(name, split, state), state.values
        self.pace = "captured" if key in self._captured else "capturing"
        if not self.is_settled:
            try:
                output = self._prepare(key, state, program, begin)
            except RuntimeError as error:
                state.bind(before)
                self._reasons[name] = f"the iteration can't be captured: {first_line(error)}"
                return program(begin)
            if output is not None:
                return output
        return self._replay(key, state, begin)

    def _key(self, name: Hashable, split: bool, state: State) -> _Key:
        """What the program is kept under: that of the last replay, if nothing has changed since."""
        if self._last is not None:
            key, values = self._last
            if key[:2] == (name, split) and are_same(state.values, values):
                return key
        return name, split, state.form

    def _prepare(self, key: _Key, state: State, program: Program, begin: OnPhase) -> Tensor | None:
        """The output of a rehearsal, or None once the program is captured."""
        assert self.backend is not None
        uses, before = self._uses.get(key, 0), state.values
        if uses < self.patience:
            output = self.backend.rehearse(program, begin)
            keep(self._uses, key, uses + 1, 16 * self.limit)
            return output
        fixed = mapped(torch.clone, before)
        recording = self.backend.capture(_in_place(program, state, fixed), split=key[1])
        state.bind(before)
        keep(self._captured, key, (fixed, recording), self.limit)
        return None

    def _replay(self, key: _Key, state: State, begin: OnPhase) -> Tensor:
        """The output of a captured program, the state brought to where it expects it."""
        self._captured.move_to_end(key)
        fixed, recording = self._captured[key]
        if not are_same(state.values, fixed):
            _copy(state.values, fixed)
            state.bind(fixed)
        self._last = key, fixed
        recording.replay(begin)
        return recording.output


def are_same(values: tuple[Any, ...], others: tuple[Any, ...]) -> bool:
    """Whether these are the very same objects, or equal integers."""
    return len(values) == len(others) and all(
        a is b or (isinstance(a, int) and a == b) for a, b in zip(values, others, strict=True)
    )


def keep(kept: OrderedDict[Any, Any], key: Hashable, value: Any, limit: int) -> None:
    """Add a value as the most recently used one, and drop those that are too many."""
    kept[key] = value
    kept.move_to_end(key)
    while len(kept) > limit:
        kept.popitem(last=False)


def _in_place(program: Program, state: State, fixed: tuple[Any, ...]) -> Program:
    """The program on the tensors `fixed`, which it updates."""

    def run(begin: OnPhase) -> Tensor:
        state.bind(fixed)
        output = program(begin)
        _copy(state.values, fixed)
        return output

    return run


def _copy(source: tuple[Any, ...], target: tuple[Any, ...]) -> None:
    for new, old in zip(tensors_of(source), tensors_of(target), strict=True):
        if new is not old:
            old.copy_(new)


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

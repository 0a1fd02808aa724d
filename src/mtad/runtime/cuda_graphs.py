"""Iterations as CUDA graphs: captured once per form, then replayed without any Python.

A captured program has fixed addresses, fixed shapes and fixed host values. `Graphs` keeps one per
form of the state that an iteration reads and replaces, buffers included, and copies the state to
where the program expects it. Knows no model, no method and no loop.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Hashable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from mtad.runtime.backend import Backend, CudaBackend, OnPhase, Program, Recording
from mtad.runtime.programs import Fallback, Programs, keep, label_of, message_of
from mtad.runtime.state import State, are_same, form_of, mapped, tensors_of

PATIENCE = 2
"""Iterations of a form that run eagerly before it is captured: a capture takes as long as two or
three of them, and the first ones allocate what a capture must not."""
LIMIT_BYTES = 2**31
"""Memory that captured programs may take."""
MOST_LAST = 8
"""Names whose last replay is remembered."""


@dataclass(frozen=True)
class _Key:
    """What a program is kept under."""

    name: Hashable
    split: bool
    form: Hashable
    addresses: tuple[tuple[int, ...], ...]
    sizes: tuple[int, ...]


_Captured: TypeAlias = tuple[tuple[Any, ...], Recording]
"""The values that the program reads and updates in place, and the program."""


class Graphs(Programs[_Captured]):
    """The captured programs of a pair of models and its caches.

    Args:
        backend: captures; None runs everything eagerly.
        reason: why there is no backend.
        patience: see `PATIENCE`.
        limit_bytes: see `LIMIT_BYTES`.
    """

    def __init__(
        self,
        backend: Backend | None,
        reason: str = "graphs are off",
        patience: int = PATIENCE,
        limit_bytes: int = LIMIT_BYTES,
    ) -> None:
        super().__init__(max(1, patience), limit_bytes)
        self.backend = backend
        self._off = Fallback("off", reason) if backend is None else None
        self._last: OrderedDict[Hashable, tuple[_Key, tuple[Any, ...]]] = OrderedDict()

    @classmethod
    def on(cls, devices: Iterable[torch.device]) -> Graphs:
        """Graphs for models on these devices: captured where that is one CUDA device."""
        found = set(devices)
        reason = _obstacle(found)
        return cls(None, reason) if reason else cls(CudaBackend(found.pop()))

    def on_devices(self, devices: Collection[torch.device]) -> Graphs:
        """What runs programs on these devices: itself, or eager ones where it captures others."""
        if not isinstance(self.backend, CudaBackend) or {*devices} == {self.backend.device}:
            return self
        others = Graphs.on(devices)
        others.eager_iterations = self.eager_iterations
        return others

    def _fallback(self, name: Hashable) -> Fallback | None:
        return self._off or super()._fallback(name)

    def forget(self, addresses: Collection[int]) -> None:
        """Drop the programs that are bound to buffers at these addresses, which are freed."""
        with self._lock:
            gone = [k for k in self._captured if any(a[0] in addresses for a in k.addresses)]
            self._drop(gone)
            self._last = OrderedDict((n, x) for n, x in self._last.items() if x[0] not in gone)

    def _run(
        self, name: Hashable, state: State, program: Program, begin: OnPhase, split: bool
    ) -> Tensor:
        assert self.backend is not None
        key, before = self._key(name, split, state), state.values
        self.is_warm = key in self._captured
        self.last_mode = "captured" if self.is_warm else "capturing"
        if self.is_warm:
            return self._replay(key, state, begin)
        try:
            if not self._is_due(key):
                return self.backend.warm_up(program, begin)
            self._capture(key, state, program, self.backend)
        except RuntimeError as error:
            state.bind(before)
            output = self.run_eagerly(program, begin, label_of(error))  # may raise on its own
            self._fall_back(name, label_of(error), message_of("captured", error))
            self.last_mode, self.is_warm = "capturing", False
            return output
        return self._replay(key, state, begin)

    def _key(self, name: Hashable, split: bool, state: State) -> _Key:
        """What the program is kept under: that of the last replay, if nothing has changed since."""
        last = self._last.get(name)
        now = split, state.sizes
        if last and (last[0].split, last[0].sizes) == now and are_same(state.values, last[1]):
            return last[0]
        return _Key(name, split, form_of(state.values), state.addresses, state.sizes)

    def _capture(self, key: _Key, state: State, program: Program, backend: Backend) -> None:
        before = state.values
        fixed = mapped(torch.clone, before)
        recording = backend.capture(_in_place(program, state, fixed), split=key.split)
        state.bind(before)
        size = recording.num_bytes + sum(tensor.nbytes for tensor in tensors_of(fixed))
        self._keep(key, (fixed, recording), size)

    def _replay(self, key: _Key, state: State, begin: OnPhase) -> Tensor:
        """The output of a captured program, the state brought to where it expects it."""
        fixed, recording = self._use(key)
        if not are_same(state.values, fixed):
            _copy(state.values, fixed)
            state.bind(fixed)
        keep(self._last, key.name, (key, fixed), MOST_LAST)
        recording.replay(begin)
        return recording.output


def _obstacle(devices: Collection[torch.device]) -> str | None:
    """Why programs on these devices can't be captured, None where they can."""
    if any(device.type != "cuda" for device in devices):
        return "the models are not on a CUDA device"
    return None if len(devices) == 1 else f"the models are on {len(devices)} devices"


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

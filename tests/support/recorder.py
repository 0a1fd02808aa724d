"""Captured programs on the CPU: every operation of one run, played again on the same tensors.

It has the semantics of a CUDA graph: fixed addresses, fixed shapes, host values as they were during
the capture, no effect of the capture itself. What a CUDA graph can't hold raises `RuntimeError`
here too: reading a value, shapes that depend on values, copying from host memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mtad.runtime.backend import Backend, OnPhase, Program, Recording

aten = torch.ops.aten
READS = {aten._local_scalar_dense.default, aten.equal.default, aten.is_nonzero.default}
FROM_HOST = {aten.lift_fresh.default, aten.lift_fresh_copy.default}
NOT_HELD = {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output}


def refuse(function: Any, args: tuple) -> None:
    """Raise for what a CUDA graph can't hold."""
    reads = function in READS or NOT_HELD & set(function.tags)
    if function._schema.name.startswith("aten::index"):  # numbers are fine, masks are counted
        reads = any(t.dtype in (torch.bool, torch.uint8) for t in tensors(args[1:2]))
    if reads:
        raise RuntimeError(f"{function} reads a value")
    if function in FROM_HOST:
        raise RuntimeError(f"{function} copies from the host")


class Interceptor(TorchDispatchMode):
    """Calls `seen` in place of every operation, with a function that runs it."""

    def __init__(self, seen: Callable[[Any, tuple, dict, Callable[[], Any]], Any]) -> None:
        super().__init__()
        self._seen = seen

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        with self:  # inference mode hands over operations that consist of others
            parts = function.decompose(*args, **kwargs)
        if parts is not NotImplemented:
            return parts
        refuse(function, args)
        return self._seen(function, args, kwargs, lambda: function(*args, **kwargs))


def tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


class Tape:
    """The operations of one phase."""

    def __init__(self, phase: str) -> None:
        self.phase = phase
        self.calls: list[tuple[Any, tuple, dict, list[Tensor]]] = []

    def play(self) -> None:
        for function, args, kwargs, outputs in self.calls:
            fresh = tensors(function(*args, **kwargs))
            for old, new in zip(outputs, fresh, strict=False):  # none where it wrote in place
                assert old.shape == new.shape and old.dtype == new.dtype, function
                old.copy_(new)


class Recorded(Recording):
    """A program as tapes, one for every phase it told."""

    num_bytes = 2**24

    def __init__(self, split: bool) -> None:
        self.tapes: list[Tape] = []
        self.output = torch.empty(0)
        self.num_replays = 0
        self._split = split
        self._own: set[int] = set()
        self._kept: list[Any] = []
        self._before: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    def mark(self, phase: str) -> None:
        if self._split or not self.tapes:
            self.tapes.append(Tape(phase))

    def see(self, function: Any, args: tuple, kwargs: dict, run: Callable[[], Any]) -> Any:
        """Run an operation and keep it; storages it changes that are older are remembered."""
        schema = function._schema
        named = zip(schema.arguments, args, strict=False)
        given = [(a, v) for a, v in named] + [
            (a, kwargs[a.name]) for a in schema.arguments if a.name in kwargs
        ]
        written = [v for a, v in given if a.alias_info is not None and a.alias_info.is_write]
        for tensor in tensors(written):
            self._remember(tensor.untyped_storage())
        result = run()
        is_view = any(
            r.alias_info is not None and not r.alias_info.is_write for r in schema.returns
        )
        outputs = [] if is_view or written else tensors(result)
        self._own |= {t.untyped_storage()._cdata for t in outputs}
        self._kept += [args, kwargs, result]
        if not is_view:
            self.tapes[-1].calls.append((function, args, kwargs, outputs))
        return result

    def _remember(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata not in self._own | set(self._before):
            self._before[storage._cdata] = (storage, storage.clone())

    def undo(self) -> None:
        """A capture takes no effect."""
        for storage, before in self._before.values():
            storage.copy_(before)

    def replay(self, begin: OnPhase) -> None:
        self.num_replays += 1
        for tape in self.tapes:
            begin(tape.phase)
            tape.play()


class Recorder(Backend):
    """A backend for `Graphs` on the CPU.

    Attributes:
        recordings: all that were captured, the first one first.
        num_warm_ups: eager runs before a capture.
    """

    def __init__(self) -> None:
        self.recordings: list[Recorded] = []
        self.num_warm_ups = 0

    @property
    def num_replays(self) -> int:
        return sum(recording.num_replays for recording in self.recordings)

    def warm_up(self, program: Program, begin: OnPhase) -> Tensor:
        self.num_warm_ups += 1
        with Interceptor(lambda function, args, kwargs, run: run()):
            return program(begin)

    def capture(self, program: Program, split: bool) -> Recorded:
        recorded = Recorded(split)
        try:
            with Interceptor(recorded.see):
                recorded.output = program(recorded.mark)
        finally:
            recorded.undo()
        self.recordings.append(recorded)
        return recorded

"""Programs of tensors as tapes: recorded once, then replayed without any Python between the ops.

On a CPU a small model spends more time between its operations than in them. A tape is the flat list
of the operations that one run of a program dispatched, with all shapes and host values fixed; it is
replayed by TorchScript's interpreter, which needs neither a compiler nor Python. Knows no model, no
method and no loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode

from mtad.runtime.backend import OnPhase
from mtad.runtime.script import Op, Place, scripted

BYTES_PER_OP = 5_000
"""What TorchScript keeps of an operation, measured on tapes of the embedded pair."""

_READS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
_ALSO_READS = {torch.ops.aten.is_nonzero.default, torch.ops.aten.equal.default}


class _Recorder(TorchDispatchMode):
    """Writes down what is dispatched while it runs."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self.tensors: list[Tensor] = []  # kept alive, so that no two of them share an id
        self._places: dict[int, Place] = {}
        self.segments: list[tuple[str, list[Op]]] = []
        self.inputs = [self.place(t) for t in inputs]

    def place(self, tensor: Tensor) -> Place:
        """The tensor's place."""
        place = self._places.get(id(tensor))
        if place is None:
            place = self._places[id(tensor)] = Place(len(self.tensors))
            self.tensors.append(tensor)
        return place

    def _placed(self, value: Any) -> Any:
        """A value of tensors and lists of them, with places for the tensors."""
        if isinstance(value, Tensor):
            return self.place(value)
        return tuple(map(self._placed, value)) if isinstance(value, list | tuple) else value

    def begin(self, phase: str) -> None:
        """Begin another segment."""
        self.segments.append((phase, []))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _reads(func, args):
            raise RuntimeError(f"it reads a tensor back to the host, with {func}")
        placed = self._placed(args), {name: self._placed(v) for name, v in kwargs.items()}
        result = func(*args, **kwargs)
        results = result if isinstance(result, list | tuple) else (result,)
        places = tuple(self.place(t) for t in results if isinstance(t, Tensor))
        op = Op(func, *placed, places)
        if op.mutates or not op.operands & set(places):  # else it returned what it was given
            self.segments[-1][1].append(op)
        return result


def mark(phase: str) -> bool:
    """Whether a tape is being recorded right now, in which case another segment of it begins.

    Args:
        phase: `begin` is called with it at every replay of the segment.
    """
    recorder = _get_current_dispatch_mode()
    if not isinstance(recorder, _Recorder):
        return False
    recorder.begin(phase)
    return True


def _reads(function: Any, args: tuple[Any, ...]) -> bool:
    """Whether the host, or the shape of the result, depends on what a tensor holds."""
    if function is torch.ops.aten.index.Tensor:
        return any(i is not None and i.dtype == torch.bool for i in args[1])
    return function in _ALSO_READS or not _READS.isdisjoint(function.tags)


@dataclass(frozen=True)
class _Segment:
    """The operations of one phase as a function of the values at some places."""

    phase: str
    function: Any
    operands: Sequence[int]
    results: Sequence[int]


class Tape:
    """A recorded program, to be replayed on tensors of the same shapes.

    Args:
        program: called with `begin`, which it calls as its phases begin; returns its outputs. It
            must do nothing with tensors but what torch dispatches, and draw no random numbers
            from torch.
        inputs: all tensors that may differ from one replay to the next, buffers included that the
            program changes. Every other tensor is taken for a constant.
        rewrites: pairs of TorchScript graphs, as text: each match of the first becomes the second.

    Attributes:
        num_bytes: what its operations take, as estimated.

    Raises:
        RuntimeError: the program reads a tensor back to the host.
    """

    def __init__(
        self,
        program: Callable[[OnPhase], Sequence[Tensor]],
        inputs: Sequence[Tensor],
        rewrites: Sequence[tuple[str, str]] = (),
    ) -> None:
        recorder = _Recorder(inputs)
        with recorder:
            outputs = program(recorder.begin)
        self._inputs = recorder.inputs
        self._outputs = [recorder.place(t) for t in outputs]
        self._values: list[Any] = [None] * len(recorder.tensors)
        self._num_ops = 0
        self._segments = self._build(recorder, rewrites)
        self.num_bytes = BYTES_PER_OP * self._num_ops

    def replay(self, inputs: Sequence[Tensor], begin: OnPhase) -> list[Tensor]:
        """The program's outputs for these inputs."""
        values = self._values.copy()
        for place, tensor in zip(self._inputs, inputs, strict=True):
            values[place.index] = tensor
        for segment in self._segments:
            begin(segment.phase)
            results = segment.function(*[values[i] for i in segment.operands])
            for index, tensor in zip(segment.results, results, strict=True):
                values[index] = tensor
        return [values[place.index] for place in self._outputs]

    def _build(self, recorder: _Recorder, rewrites: Sequence[tuple[str, str]]) -> list[_Segment]:
        """Scripted functions of the segments, without what is never read or never changes."""
        segments = [(phase, list(ops)) for phase, ops in recorder.segments]
        _drop_constant(segments, set(self._inputs))
        _drop_repeated(segments, set(self._outputs))
        _drop_unread(segments, set(self._outputs))
        built, wanted = [], set(self._outputs)
        for phase, ops in reversed(segments):
            self._num_ops += len(ops)
            made = {p for op in ops for p in op.made}
            operands = sorted({p for op in ops for p in op.operands} - made)
            results = sorted(made & wanted) or operands[:1]  # a script must return something
            function = scripted(ops, operands, results, rewrites)
            places = [p.index for p in operands], [p.index for p in results]
            built.append(_Segment(phase, function, *places))
            wanted = (wanted - made) | set(operands)
        for constant in wanted - set(self._inputs):
            self._values[constant.index] = recorder.tensors[constant.index]
        return built[::-1]


_Segments = list[tuple[str, list[Op]]]


def _drop_constant(segments: _Segments, inputs: set[Place]) -> None:
    """Remove what does not depend on the inputs; its results stay as they were recorded."""
    varying = inputs | _written(segments)
    for _, part in segments:
        kept = []
        for op in part:
            if op.mutates or varying & {*op.operands, *op.results}:
                kept.append(op)
                varying.update(op.results)
        part[:] = kept


def _written(segments: _Segments) -> set[Place]:
    """The tensors in whose memory something is changed."""
    ops = [op for _, part in segments for op in part]
    written = {p for op in ops for p in op.changed}
    for op in [*reversed(ops), *ops]:  # to the bases of changed views, and to their other views
        if written & op.shared:
            written |= op.shared
    return written


_SAME = {torch.ops.aten.alias.default, torch.ops.aten.detach.default}
"""Operations whose result is their operand under another name."""


def _drop_repeated(segments: _Segments, outputs: set[Place]) -> None:
    """Remove what was done before with the same operands, and what does nothing.

    Layers of a model do many things alike. Tensors that are written to are left alone.
    """
    written, known, same = _written(segments), dict[str, Op](), dict[Place, Place]()
    for _, part in segments:
        kept = []
        for op in part:
            op = op.at(same)
            if op.function in _SAME and not outputs & set(op.results):
                same[op.results[0]] = op.args[0]
                continue
            if not op.mutates and not written & {*op.operands, *op.results}:
                before = known.setdefault(op.key, op)
                if before is not op and not outputs & set(op.results):
                    same |= zip(op.results, before.results, strict=True)
                    continue
            kept.append(op)
        part[:] = kept


def _drop_unread(segments: _Segments, wanted: set[Place]) -> None:
    """Remove what is never read."""
    for _, part in reversed(segments):
        kept = []
        for op in reversed(part):
            if op.mutates or wanted & set(op.results):
                kept.append(op)
                wanted |= op.operands
        part[:] = kept[::-1]

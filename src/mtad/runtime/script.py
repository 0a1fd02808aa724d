"""Operations that torch dispatched, and a list of them as one function of TorchScript.

The graph is built operation by operation: tracing would run all of them once more, and takes ten
times as long. It is run as it stands, since what TorchScript would optimise takes longer than it
saves: operations are already what is dispatched. Knows no program.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

_C: Any = torch._C
_MEMORY_FORMATS = {torch.contiguous_format: 0, torch.preserve_format: 1, torch.channels_last: 2}
"""Their numbers in torch's own enumeration."""

_CONSTANTS: Any = (
    *(type(None), bool, int, float, str),
    *(torch.dtype, torch.device, torch.layout, torch.memory_format),
)
"""What the host may give to an operation; the state of a generator would be another."""


@dataclass(frozen=True, order=True)
class Place:
    """Stands for a tensor: an input, a constant, or the result of an operation."""

    index: int


@dataclass(frozen=True)
class Op:
    """One operation, places standing for its tensors."""

    function: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    results: tuple[Place, ...]

    @cached_property
    def operands(self) -> frozenset[Place]:
        """The tensors that it reads or changes."""
        leaves = tree_leaves((self.args, self.kwargs))
        return frozenset(p for p in leaves if isinstance(p, Place))

    @cached_property
    def mutates(self) -> bool:
        """Whether it changes an operand."""
        return bool(self.function._schema.is_mutable)

    @property
    def key(self) -> str:
        """Equal for operations that do the same with the same operands."""
        return repr((self.function, self.args, self.kwargs))

    def at(self, places: Mapping[Place, Place]) -> Op:
        """The operation with other places for some of its tensors."""
        if not places.keys() & {*self.operands, *self.results}:
            return self
        parts = self.args, self.kwargs, self.results
        return Op(self.function, *tree_map_only(Place, lambda p: places.get(p, p), parts))

    @property
    def changed(self) -> set[Place]:
        """The operands that it changes."""
        if not self.mutates:
            return set()
        written = [v for a, v in zip(self._formal, self.values, strict=True) if a.is_write]
        return {p for p in tree_leaves(written) if isinstance(p, Place)}

    @property
    def made(self) -> set[Place]:
        """The results that did not exist before."""
        return set(self.results) - self.operands

    @cached_property
    def shared(self) -> frozenset[Place]:
        """The operands whose memory a result may share, and the results; empty if none are."""
        alias = [v for a, v in zip(self._formal, self.values, strict=True) if a.alias_info]
        bases = {p for p in tree_leaves(alias) if isinstance(p, Place)}
        return frozenset(bases.union(self.results) if bases else ())

    @property
    def _formal(self) -> Sequence[Any]:
        formal: Sequence[Any] = self.function._schema.arguments
        return formal

    @property
    def values(self) -> list[Any]:
        """What each argument of the schema gets, defaults included."""
        names = [a.name for a in self._formal]
        given = dict(zip(names, self.args, strict=False)) | self.kwargs
        return [given.get(a.name, a.default_value) for a in self._formal]


def scripted(
    ops: Sequence[Op],
    operands: Sequence[Place],
    results: Sequence[Place],
    rewrites: Sequence[tuple[str, str]] = (),
) -> Callable[..., Sequence[Tensor]]:
    """The operations as a function of the tensors at `operands` that returns those at `results`.

    Args:
        ops: in their order.
        operands: all that they read and none of them makes.
        results: at least one, unless there are no operations.
        rewrites: pairs of graphs, as text: each match of the first becomes the second.

    Raises:
        RuntimeError: an operation has an argument that is neither a tensor nor a plain value.
    """
    if not ops:
        return lambda: ()
    graph = _Graph(operands)
    for op in ops:
        graph.add(op)
    function = _C._create_function_from_graph("run", graph.returning(results))
    for pattern, replacement in rewrites:
        _C._jit_pass_custom_pattern_based_rewrite_graph(pattern, replacement, function.graph)

    def run(*tensors: Tensor) -> Sequence[Tensor]:
        was_on = _C._get_graph_executor_optimize()
        _C._set_graph_executor_optimize(False)
        try:
            found: Sequence[Tensor] = function(*tensors)
            return found
        finally:
            _C._set_graph_executor_optimize(was_on)

    return run


class _Graph:
    """A graph of TorchScript that grows by operations.

    Args:
        operands: its inputs.
    """

    def __init__(self, operands: Sequence[Place]) -> None:
        self._graph = _C.Graph()
        self._values = {place: self._graph.addInput() for place in operands}
        self._constants: dict[tuple[type, str], Any] = {}

    def add(self, op: Op) -> None:
        """Add an operation, whose overload follows from the types of its arguments."""
        schema = op.function._schema
        types = [argument.type for argument in schema.arguments]
        inputs = [self._value(v, t) for v, t in zip(op.values, types, strict=True)]
        returned = [result.type for result in schema.returns]
        if len(returned) == 1 and isinstance(returned[0], _C.ListType):
            made = self._node(schema.name, inputs, 1)
            made[0].setType(returned[0])
            made = self._node("prim::ListUnpack", made, len(op.results))
        else:
            made = self._node(schema.name, inputs, len(returned))
        self._values |= zip(op.results, made, strict=True)

    def returning(self, results: Sequence[Place]) -> Any:
        """The graph, which returns a tuple of these."""
        (made,) = self._node("prim::TupleConstruct", [self._values[p] for p in results], 1)
        made.setType(_C.TupleType([_C.TensorType.get()] * len(results)))
        self._graph.registerOutput(made)
        return self._graph

    def _node(self, kind: str, inputs: list[Any], num_outputs: int) -> list[Any]:
        node = self._graph.create(kind, inputs, num_outputs)
        self._graph.appendNode(node)
        return list(node.outputs())

    def _value(self, value: Any, kind: Any) -> Any:
        """A value of the graph for an argument of this type."""
        if isinstance(value, Place):
            return self._values[value]
        if not isinstance(value, list | tuple):
            return self._constant(value)
        while isinstance(kind, _C.OptionalType):
            kind = kind.getElementType()
        element = kind.getElementType()
        (made,) = self._node("prim::ListConstruct", [self._value(v, element) for v in value], 1)
        made.setType(kind)
        return made

    def _constant(self, value: Any) -> Any:
        if not isinstance(value, _CONSTANTS):
            raise RuntimeError(f"it has an argument that no script can have, {value!r}")
        if isinstance(value, torch.memory_format):
            value = _MEMORY_FORMATS[value]
        key = type(value), repr(value)
        if key not in self._constants:
            self._constants[key] = self._graph.insertConstant(value)
        return self._constants[key]

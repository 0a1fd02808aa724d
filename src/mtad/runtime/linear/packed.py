"""Weights laid out once for the CPU's matrix instructions, in the type that they have.

PyTorch's bfloat16 `Linear` has oneDNN bring the weights into its own layout at every call; packed
ones are stored in it and read at the memory's bandwidth. Knows no model.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mtad.runtime.linear.kernel import Kernel

_library = torch.library.Library("mtad", "FRAGMENT")
_library.define("packed_linear(Tensor x, Tensor packed, Tensor? bias) -> Tensor")
_linear: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)  # not in every build


def _packed_linear(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    result: Tensor = _linear.default(x, packed, bias, "none", [], "")
    return result


def _packed_linear_meta(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], packed.shape[0])


# An operation of its own: TorchScript has no type for one of oneDNN's arguments.
_library.impl("packed_linear", _packed_linear, "CompositeExplicitAutograd")
_library.impl("packed_linear", _packed_linear_meta, "Meta")
_operation: Any = torch.ops.mtad.packed_linear.default

SCRIPTED = (
    """graph(%x, %packed, %bias):
        %r = mtad::packed_linear(%x, %packed, %bias)
        return (%r)""",
    """graph(%x, %packed, %bias):
        %attr : str = prim::Constant[value="none"]()
        %scalars : Scalar?[] = prim::ListConstruct()
        %algorithm : str = prim::Constant[value=""]()
        %r : Tensor = mkldnn::_linear_pointwise(%x, %packed, %bias, %attr, %scalars, %algorithm)
        return (%r)""",
)
"""The operation as TorchScript may have it, and what it then calls without a way through Python."""


class PackedLinear(Kernel):
    """A linear layer, bfloat16 or float32, that keeps only the packed weights."""

    label = "oneDNN"

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear)
        pack: Any = torch.ops.mkldnn._reorder_linear_weight
        self.register_buffer("packed", pack(linear.weight.detach(), None), persistent=False)

    @classmethod
    def missing(cls) -> str:
        """Why it can't be used here, empty where it can."""
        return "this build of PyTorch has no oneDNN" if _linear is None else ""

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output, (…, out_features), for (…, in_features)."""
        result: Tensor = _operation(x, self.packed, self.bias)
        return result


def is_quick() -> bool:
    """Whether bfloat16 is quicker packed on this machine."""
    if PackedLinear.missing():
        return False
    supported: Any = torch.ops.mkldnn._is_mkldnn_bf16_supported
    return bool(supported())

"""8-bit products by oneDNN, which comes with PyTorch for x86.

Its operation takes one scale for all of the input. So the rows are made integers here, go in with
the scale 1, and what comes out in float32 is multiplied by the scale of its row.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mtad.runtime.linear.int8 import LARGEST, Int8Linear

_ZERO = 128
"""What stands for 0: oneDNN's quick products are of unsigned inputs."""
_SMALLEST = 1e-30

_library = torch.library.Library("mtad", "FRAGMENT")
_library.define("int8_product(Tensor x, Tensor packed, Tensor scales, Tensor zeros) -> Tensor")
_product: Any = getattr(torch.ops.onednn, "qlinear_pointwise", None)  # not in every build


def _int8_product(x: Tensor, packed: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
    rest: Any = (None, 1.0, 0, torch.float32, "none", [], "")
    result: Tensor = _product.default(x, 1.0, _ZERO, packed, scales, zeros, *rest)
    return result


# An operation of its own: TorchScript has no type for one of oneDNN's arguments.
_library.impl("int8_product", _int8_product, "CompositeExplicitAutograd")
_operation: Any = torch.ops.mtad.int8_product.default

SCRIPTED = (
    """graph(%x, %packed, %scales, %zeros):
        %r = mtad::int8_product(%x, %packed, %scales, %zeros)
        return (%r)""",
    f"""graph(%x, %packed, %scales, %zeros):
        %one : float = prim::Constant[value=1.]()
        %zero : int = prim::Constant[value={_ZERO}]()
        %bias : NoneType = prim::Constant()
        %shift : int = prim::Constant[value=0]()
        %float32 : int = prim::Constant[value=6]()
        %attr : str = prim::Constant[value="none"]()
        %scalars : Scalar?[] = prim::ListConstruct()
        %algorithm : str = prim::Constant[value=""]()
        %r : Tensor = onednn::qlinear_pointwise(%x, %one, %zero, %packed, %scales, %zeros, %bias, %one, %shift, %float32, %attr, %scalars, %algorithm)
        return (%r)""",  # noqa: E501
)
"""The operation as TorchScript may have it, and what it then calls without a way through Python."""


class OneDnnInt8(Int8Linear):
    """8-bit products by oneDNN."""

    label = "oneDNN"
    zeros: Tensor
    offset: Tensor
    output_scales: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear)
        zeros = torch.zeros(self.out_features, dtype=torch.int32)
        self.register_buffer("zeros", zeros, persistent=False)
        offset = torch.tensor(_ZERO + 0.5, dtype=torch.float32)
        self.register_buffer("offset", offset, persistent=False)
        self.register_buffer("output_scales", self.scales / LARGEST, persistent=False)

    @classmethod
    def missing(cls) -> str:
        """Why it can't be used here, empty where it can."""
        return "this build of PyTorch has no oneDNN" if _product is None else ""

    def pack(self, integers: Tensor) -> Tensor:
        """The integers in the layout that oneDNN reads."""
        packed: Tensor = torch.ops.onednn.qlinear_prepack(integers, None)
        return packed

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output, (…, out_features), for (…, in_features)."""
        # two operations that are quicker than the norm, which is one
        largest = x.abs().amax(-1, keepdim=True).to(torch.float32).clamp_min(_SMALLEST)
        # converting cuts the digits off, so that a half is added: the nearest integer
        shifted = torch.addcmul(self.offset, x, largest.reciprocal(), value=LARGEST)
        product = _operation(shifted.to(torch.uint8), self.packed, self.output_scales, self.zeros)
        result: Tensor = product.mul_(largest)
        if self.bias is not None:
            result = result.add_(self.bias)
        return result.to(x.dtype)

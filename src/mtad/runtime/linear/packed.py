"""Linear layers with weights laid out once for the CPU's matrix instructions.

PyTorch's bfloat16 `Linear` has oneDNN bring the weights into its own layout at every call; packed
ones are stored in it and read at the memory's bandwidth. Knows modules; no model, no cache.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

MIN_WEIGHTS = 2**16
"""Smaller layers are quicker as they are."""

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


class PackedLinear(nn.Module):
    """A linear layer that keeps only the packed weights.

    Args:
        linear: the layer to replace, bfloat16 or float32 on the CPU.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        pack: Any = torch.ops.mkldnn._reorder_linear_weight
        self.register_buffer("packed", pack(linear.weight.detach(), None), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output, (…, out_features), for (…, in_features)."""
        result: Tensor = _operation(x, self.packed, self.bias)
        return result


@torch.inference_mode()
def weight_of(layer: Any) -> Tensor:
    """The weight (out, in) of a linear layer; a packed one is asked what it makes of each input.

    Raises:
        AttributeError: it is no linear layer with a weight of numbers.
    """
    if not isinstance(layer, PackedLinear):
        weight: Tensor = layer.weight.detach()
        return weight
    packed: Any = layer.packed
    columns: Tensor = layer(torch.eye(layer.in_features, dtype=packed.dtype))
    return (columns if layer.bias is None else columns - layer.bias).T


@torch.inference_mode()
def beginning_of(layer: PackedLinear, length: int) -> Tensor:
    """The first numbers of a packed layer's weight, row by row; only as many inputs are asked for.

    Args:
        layer: packed.
        length: of what is returned, at most that of a row.
    """
    packed: Any = layer.packed
    columns: Tensor = layer(torch.eye(length, layer.in_features, dtype=packed.dtype))[:, 0]
    return columns if layer.bias is None else columns - layer.bias[0]


def helps(model: nn.Module) -> bool:
    """Whether packing makes the model faster: bfloat16 weights on a CPU that oneDNN supports."""
    weights = {(p.device.type, p.dtype) for p in model.parameters()}
    if _linear is None or weights != {("cpu", torch.bfloat16)}:
        return False
    supported: Any = torch.ops.mkldnn._is_mkldnn_bf16_supported
    return bool(supported())


def pack(model: nn.Module) -> int:
    """The number of linear layers replaced by packed ones, in place; others are left alone.

    The plain weights are let go one by one, so that little more memory is needed on the way. Tied
    weights are not changed: an output layer that shares the embedding's weights gets a copy.

    Raises:
        ValueError: the model is not on the CPU, or neither in bfloat16 nor in float32, or there is
            no oneDNN in this build of PyTorch.
    """
    if _linear is None:
        raise ValueError("this build of PyTorch has no oneDNN, which packing needs; leave pack out")
    kinds = {(p.device.type, p.dtype) for p in model.parameters()}
    if not kinds <= {("cpu", torch.bfloat16), ("cpu", torch.float32)}:
        given = ", ".join(sorted(f"{dtype} on {device}" for device, dtype in kinds))
        raise ValueError(
            f"the model has weights in {given}; packing works for bfloat16 and float32 on the CPU"
        )
    found = [(parent, name) for parent in model.modules() for name, _ in parent.named_children()]
    count = 0
    for parent, name in found:
        layer = getattr(parent, name)
        if type(layer) is nn.Linear and layer.weight.numel() >= MIN_WEIGHTS:
            setattr(parent, name, PackedLinear(layer))
            count += 1
    return count

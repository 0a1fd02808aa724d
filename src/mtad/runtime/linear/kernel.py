"""What all kernels have in common: a layer that took the weights of a linear one.

Knows no model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Kernel(nn.Module, ABC):
    """A linear layer with weights in a form of its own.

    Args:
        linear: the layer to replace, whose weights are not kept.

    Attributes:
        label: what messages call it.
        in_features, out_features, bias: as of `torch.nn.Linear`.
        dtype: of inputs and outputs.
        lost: squares of what the weights lost by taking this form, and of the weights, summed.
    """

    label: ClassVar[str]

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias, self.dtype = linear.bias, linear.weight.dtype
        self.lost = (0.0, 0.0)

    @classmethod
    @abstractmethod
    def missing(cls) -> str:
        """Why it can't be used here, empty where it can."""

    @classmethod
    def stands_for(cls, weight: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
        """The weights that the products are of, float32; each row depends on that row alone."""
        return weight.float()

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """The layer's output, (…, out_features), for (…, in_features)."""


@torch.inference_mode()
def weight_of(layer: Any) -> Tensor:
    """The weight (out, in) of a linear layer; a kernel is asked what it makes of each input.

    Raises:
        AttributeError: it is no linear layer with a weight of numbers.
    """
    if not isinstance(layer, Kernel):
        weight: Tensor = layer.weight.detach()
        return weight
    columns: Tensor = layer(torch.eye(layer.in_features, dtype=layer.dtype))
    return (columns if layer.bias is None else columns - layer.bias).T


@torch.inference_mode()
def beginning_of(layer: Kernel, length: int) -> Tensor:
    """The first numbers of a kernel's weight, row by row; only as many inputs are asked for.

    Args:
        layer: the kernel.
        length: of what is returned, at most that of a row.
    """
    columns: Tensor = layer(torch.eye(length, layer.in_features, dtype=layer.dtype))[:, 0]
    return columns if layer.bias is None else columns - layer.bias[0]

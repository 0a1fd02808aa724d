"""Weights of 8-bit integers, and inputs that are made integers as they come.

Each output channel has a scale, and so has each row of the input, which is found when the layer is
called: y = (rows of integers · weights of integers) · scale of the row · scale of the channel. Sums
of integers have no rounding, so a row's output does not depend on which rows are beside it. Knows
no kernel.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from jaxtyping import Float, Int8
from torch import Tensor, nn

from mtad.errors import CheckpointError
from mtad.runtime.linear.kernel import Kernel

LARGEST = 127
"""The integers go from its negative to this."""
_SMALLEST = torch.finfo(torch.float32).tiny


def quantised(
    weight: Float[Tensor, "out in"],
) -> tuple[Int8[Tensor, "out in"], Float[Tensor, " out"]]:
    """The nearest integers, and the scale of each row that they are to be multiplied by."""
    numbers = weight.detach().to(torch.float32, copy=True)
    scales = numbers.abs().amax(dim=1).clamp_min_(_SMALLEST).div_(LARGEST)
    return numbers.div_(scales[:, None]).round_().to(torch.int8), scales


class Int8Linear(Kernel):
    """A linear layer, bfloat16 or float32, with weights of 8 bits.

    Attributes:
        packed: the integers, in the kernel's layout.
        scales: (out,) float32.
    """

    packed: Tensor
    scales: Tensor

    @torch.no_grad()
    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear)
        weight = linear.weight.detach()
        integers, scales = quantised(weight)
        if not (scales.isfinite().all() and (self.bias is None or self.bias.isfinite().all())):
            raise CheckpointError(
                f"a linear layer of {self.in_features} to {self.out_features} numbers has weights "
                "that are NaN or infinite, for which there are no 8-bit integers; take a "
                "checkpoint without these"
            )
        self.lost = _lost(weight, integers, scales)
        self.register_buffer("packed", self.pack(integers), persistent=False)
        self.register_buffer("scales", scales, persistent=False)

    @abstractmethod
    def pack(self, integers: Int8[Tensor, "out in"]) -> Tensor:
        """The integers in the layout that the kernel reads."""

    @classmethod
    def stands_for(cls, weight: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
        """The weights that the products are of, float32."""
        integers, scales = quantised(weight)
        return integers.float() * scales[:, None]


def _lost(weight: Tensor, integers: Tensor, scales: Tensor) -> tuple[float, float]:
    """Sums of the squares of the difference to the weights, and of the weights."""
    difference = integers.float().mul_(scales[:, None]).sub_(weight)
    return float(difference.square_().sum()), float(weight.float().square().sum())

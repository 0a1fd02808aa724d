"""Layers that read the same input, multiplied as one.

Queries, keys and values are made of the same hidden states, and so are a gate and what it opens.
One product of all their rows has one call where there were several, and makes its input integers
once. What calls the layers stays as it is: each layer hands out its part, and the first that sees
an input multiplies for all. Knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mtad.runtime.linear.kernel import Kernel
from mtad.runtime.linear.trial import NUM_ROWS

_PLACE = "_mtad_parts"


class Joint:
    """The product of several layers.

    The parts of it that nobody has taken yet are kept with the input itself and go where it goes:
    none outlives its input, and inputs of other threads, texts or forwards have their own. An
    input must not be changed between its layers.

    Args:
        kernel: has the outputs of all layers, one after another.
        sizes: number of outputs of each layer.
    """

    def __init__(self, kernel: Kernel, sizes: Sequence[int]) -> None:
        self.kernel, self._sizes = kernel, list(sizes)

    def part(self, x: Tensor, index: int) -> Tensor:
        """The output of a layer, (…, its outputs), for (…, in_features); a view."""
        owner, parts = vars(x).get(_PLACE, (None, {}))
        part: Tensor | None = parts.pop(index, None) if owner is self else None
        if part is None:
            parts = dict(enumerate(self.kernel(x).split(self._sizes, -1)))
            part = parts.pop(index)
            setattr(x, _PLACE, (self, parts))
        elif not parts:
            vars(x).pop(_PLACE, None)
        return part


class JointPart(Kernel):
    """One of the layers whose products are made together.

    Attributes:
        joint: holds the weights, which are in no module.
    """

    label = "joint"

    def __init__(self, linear: nn.Linear, joint: Joint, index: int) -> None:
        super().__init__(linear)
        self.joint, self._index = joint, index

    @classmethod
    def missing(cls) -> str:
        """Why it can't be used here; it can wherever its kernel can."""
        return ""

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output, (…, out_features), for (…, in_features)."""
        return self.joint.part(x, self._index)


@torch.no_grad()
def joined(layers: Sequence[nn.Linear]) -> nn.Linear:
    """A layer with the outputs of several, one after another.

    Args:
        layers: of the same input, all with a bias or all without.
    """
    first, has_bias = layers[0], layers[0].bias is not None
    num_out, dtype = sum(layer.out_features for layer in layers), first.weight.dtype
    whole = nn.Linear(first.in_features, num_out, has_bias, "meta", dtype)
    whole.weight = nn.Parameter(torch.cat([layer.weight for layer in layers]), False)
    if has_bias:
        whole.bias = nn.Parameter(torch.cat([layer.bias for layer in layers]), False)
    return whole


@torch.inference_mode()
def differs(whole: Kernel, alone: Sequence[nn.Module]) -> str:
    """Where the product of layers is not that of each alone, to the bit; empty if it is nowhere."""
    random, size = torch.Generator().manual_seed(0), whole.in_features
    x = torch.randn(max(NUM_ROWS), size, generator=random, dtype=torch.float32).to(whole.dtype)
    for count in NUM_ROWS:
        wanted: Float[Tensor, "rows out"] = torch.cat([layer(x[:count]) for layer in alone], -1)
        if not torch.equal(whole(x[:count]), wanted):
            return f"of {count} rows, the product of all is rounded otherwise"
    return ""

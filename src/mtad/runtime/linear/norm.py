"""RMS norms as one operation, by zentorch, for models whose linear layers are its 8-bit products.

A stock norm is eight operations in a forward of a few tokens. zentorch's rounds once where that
rounds twice, so that only a target that is another one already, by its 8 bits, gets it. Its kernel
is wrong where rows have a batch dimension, so that it is called on a list of rows. Knows no model.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mtad.runtime.linear.trial import NUM_ROWS
from mtad.runtime.linear.zentorch import ZentorchInt8

logger = logging.getLogger(__name__)

_ROUNDING = 2.0**-7
"""What outputs may be off by, relative to those of the stock norm: three roundings of bfloat16."""
_EPSILONS = ("variance_epsilon", "eps")
"""What transformers' norms call the number that is added under the root."""


class ZentorchNorm(nn.Module):
    """x / sqrt(mean(x²) + epsilon) · weight, each row on its own.

    Args:
        weight: (size,) bfloat16.
        epsilon: added under the root.
    """

    def __init__(self, weight: Tensor, epsilon: float) -> None:
        super().__init__()
        self.weight, self.epsilon = nn.Parameter(weight.detach(), False), epsilon

    def forward(self, x: Float[Tensor, "*place size"]) -> Float[Tensor, "*place size"]:
        """The norm of each row."""
        rows = x.reshape(-1, x.shape[-1])
        normed: Tensor = torch.ops.zentorch.zentorch_rms_norm(rows, self.weight, self.epsilon)
        return normed.view(x.shape)


def replace_norms(model: nn.Module) -> int:
    """Replace the RMS norms that zentorch computes as the model does, in place; how many these are.

    Others stay as they are, and so do all where zentorch is missing.
    """
    if ZentorchInt8.missing():
        return 0
    found = [(p, n, m) for p in model.modules() for n, m in p.named_children() if _is_norm(m)]
    count = 0
    for parent, name, norm in found:
        quick = _quick(norm)
        if fault := _fault_of(quick, norm):
            logger.info("%s stays as it is: %s", name, fault)
            continue
        setattr(parent, name, quick)
        count += 1
    return count


def _quick(norm: Any) -> ZentorchNorm:
    epsilon = next(getattr(norm, name) for name in _EPSILONS if hasattr(norm, name))
    return ZentorchNorm(norm.weight, epsilon)


def _is_norm(module: Any) -> bool:
    """Whether a module may be an RMS norm in bfloat16; what it computes is tried."""
    weight = getattr(module, "weight", None)
    has_weight = isinstance(weight, Tensor) and weight.ndim == 1 and weight.dtype == torch.bfloat16
    named = type(module).__name__.endswith("RMSNorm")
    return named and has_weight and any(hasattr(module, name) for name in _EPSILONS)


@torch.inference_mode()
def _fault_of(quick: ZentorchNorm, norm: nn.Module) -> str:
    """Where it is not the stock norm, but for rounding; empty if it is nowhere."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(max(NUM_ROWS), quick.weight.numel(), generator=random, dtype=torch.float32)
    x = (x * 2.0 ** torch.arange(-8, 8).repeat(4)[:, None]).to(torch.bfloat16)
    alone = torch.cat([quick(row[None]) for row in x])
    for count in NUM_ROWS:
        given, wanted = quick(x[None, :count])[0], norm(x[None, :count])[0].float()
        if not (given.float() - wanted).abs().le(_ROUNDING * wanted.abs()).all():
            return f"of {count} rows, it differs by more than rounding"
        if not torch.equal(given, alone[:count]):
            return f"of {count} rows, one depends on the others"
    bad = x.clone()
    bad[3, 5] = torch.nan
    is_bad = quick(bad).isnan()
    return "" if is_bad[3].all() and not is_bad[[2, 4]].any() else "NaN became numbers"

"""A kernel's products beside those of floats, before it is used.

The rows hold whole numbers from -127 to 127, times a power of two that is the row's own. Integers
of 8 bits and bfloat16 have these without a loss, so the kernel must give what floats give, up to
the rounding of its output, whichever way it makes inputs integers.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mtad.runtime.linear.kernel import Kernel

NUM_ROWS = (1, 2, 5, 17, 64)
"""Kernels have code of their own for few rows, and for what is left over of a block of many."""
_ROUNDING = {torch.bfloat16: 2.0**-7, torch.float32: 2.0**-18}
"""What outputs may be off by, relative: two roundings."""
_SUMMING = 2.0**-16
"""What float32 sums may be off by, relative to the lengths of row and weights: less than a product
that is left out."""
_CHUNK = 4096


@torch.inference_mode()
def fault_of(kernel: Kernel, linear: nn.Linear) -> str:
    """What is wrong with the kernel's products, empty if nothing is.

    Args:
        kernel: what was made of the layer.
        linear: the layer.
    """
    x = _rows(linear)
    for count in NUM_ROWS:
        if not _keeps_nan(kernel, x[:count]):
            return f"of {count} rows, one with NaN became one of numbers"
    products = {count: kernel(x[:count]).float() for count in NUM_ROWS}
    for count, excess in _excesses(products, x.float(), kernel, linear).items():
        if not excess <= 1:
            return f"of {count} rows, a product is off by {excess:.3g} times what rounding explains"
    return ""


def _keeps_nan(kernel: Kernel, x: Tensor) -> bool:
    """Whether NaN in the last row reaches all of its products."""
    bad = x.clone()
    bad[-1, -1] = float("nan")
    return bool(kernel(bad)[-1].isnan().all())


def _rows(linear: nn.Linear) -> Float[Tensor, "rows in"]:
    """Rows of whole numbers, the same each time."""
    random, shape = torch.Generator().manual_seed(0), (max(NUM_ROWS), linear.in_features)
    whole = torch.randint(-127, 128, shape, generator=random).to(linear.weight.dtype)
    whole[:, 0] = 127
    whole[1::4] = torch.where(whole[1::4] < 0, -127.0, 127.0).to(whole)  # sums as large as can be
    powers = torch.arange(shape[0], dtype=torch.int32) % 21 - 10
    return torch.ldexp(whole.float(), powers[:, None]).to(whole)


def _excesses(
    products: Mapping[int, Tensor], x: Tensor, kernel: Kernel, linear: nn.Linear
) -> dict[int, float]:
    """The largest error over the error that is allowed, by number of rows."""
    worst = dict.fromkeys(products, 0.0)
    for start in range(0, linear.out_features, _CHUNK):
        part = slice(start, start + _CHUNK)
        weight, bias = kernel.stands_for(linear.weight[part]), x.new_zeros(1)
        if linear.bias is not None:
            bias = linear.bias[part].float()
        wanted = x @ weight.T
        lengths = x.norm(dim=1)[:, None] * weight.norm(dim=1)
        size = wanted.abs() + bias.abs()
        allowed = _ROUNDING[kernel.dtype] * size + _SUMMING * lengths
        for count, got in products.items():
            error = (got[:, part] - wanted[:count] - bias).abs() / allowed[:count].clamp_min(1e-30)
            worst[count] = max(worst[count], float(error.nan_to_num(nan=torch.inf).max()))
    return worst

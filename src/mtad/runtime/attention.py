"""Attention of a few tokens that don't share queries, by zentorch where it is right, else by torch.

zentorch's operation takes about half the time of torch's, and a third with several tokens. It is
tried on a model's shapes before it is used: beside floats, each token alone and beside others, and
for NaN in queries and values. It takes NaN in a key for a number. So no layer may make that of
numbers: those of 8 bits refuse weights that are not finite (`mtad.runtime.linear.int8`). Knows no
model.
"""

from __future__ import annotations

import logging

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from mtad.errors import first_line
from mtad.runtime.linear.zentorch import ZentorchInt8

logger = logging.getLogger(__name__)

_NUM_TOKENS = (1, 2, 5, 17)
_NUM_SLOTS = (64, 128, 256, 1024)
_ROUNDING = {torch.bfloat16: 2.0**-7, torch.float32: 2.0**-16}
"""What outputs may be off by, relative to the values' sizes: two roundings and the exponentials."""

_Shape = tuple[torch.dtype, int, int, int]
_faults: dict[_Shape, str] = {}
"""Why torch's attention is used, by dtype, groups, heads of a group, and their size."""


def attend(
    query: Float[Tensor, "tokens groups share size"],
    key: Float[Tensor, "tokens groups slots size"],
    value: Float[Tensor, "tokens groups slots value_size"],
    mask: Bool[Tensor, "tokens slots"],
    scale: float | None,
) -> Float[Tensor, "tokens groups share value_size"]:
    """The attention of each token, whose queries share its keys and values, by group."""
    is_tried = not _faults.get((query.dtype, *query.shape[1:]), "not tried")
    if is_tried and query.shape[-1] == value.shape[-1]:
        return _by_zentorch(query, key, value, mask, scale)
    return F.scaled_dot_product_attention(query, key, value, mask[:, None, None], scale=scale)


def _by_zentorch(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float | None
) -> Tensor:
    numbers = torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, -torch.inf)
    attended: Tensor = torch.ops.zentorch.zentorch_sdpa(
        query, key, value, attn_mask=numbers[:, None, None], scale=scale
    )[0]
    return attended


def prepare(dtype: torch.dtype, groups: int, share: int, size: int) -> None:
    """Let `attend` use zentorch for this shape, where it is installed and right.

    Args:
        dtype, groups, size: of the queries.
        share: how many heads there are in a group.
    """
    shape = dtype, groups, share, size
    if shape in _faults or ZentorchInt8.missing():
        return
    try:
        _faults[shape] = _fault_of(*shape)
    except RuntimeError as error:
        _faults[shape] = first_line(error)
    if _faults[shape]:
        logger.info("attention of %s is not by zentorch: %s", shape, _faults[shape])


@torch.inference_mode()
def _fault_of(dtype: torch.dtype, groups: int, share: int, size: int) -> str:
    """Where zentorch's attention is wrong, empty if it is nowhere."""
    if dtype not in _ROUNDING:
        return f"it is not tried for {dtype}"
    random, most = torch.Generator().manual_seed(0), max(_NUM_TOKENS)
    for slots in _NUM_SLOTS:
        shapes = (most, groups, share, size), (1, groups, slots, size), (1, groups, slots, size)
        query, key, value = (
            torch.randn(s, generator=random, dtype=torch.float32).to(dtype) for s in shapes
        )
        mask = torch.rand(most, slots, generator=random, dtype=torch.float32) < 0.7
        mask[:, 0] = True
        if fault := _difference(query, key, value, mask):
            return f"of {slots} slots, {fault}"
    return ""


def _difference(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> str:
    def run(part: slice, query: Tensor = query, value: Tensor = value) -> Tensor:
        keys, values = (t.expand(len(query[part]), -1, -1, -1) for t in (key, value))
        return _by_zentorch(query[part], keys, values, mask[part], None)

    every, most = [t.float().expand(len(query), -1, -1, -1) for t in (key, value)], len(query)
    wanted, sizes = (
        F.scaled_dot_product_attention(query.float(), every[0], values, mask[:, None, None])
        for values in (every[1], every[1].abs())
    )
    alone = torch.cat([run(slice(i, i + 1)) for i in range(most)])
    for count in _NUM_TOKENS:
        got = run(slice(count))
        if not torch.equal(got, alone[:count]):
            return f"one of {count} tokens depends on the others"
        error = (got.float() - wanted[:count]).abs()
        if not (error <= _ROUNDING[query.dtype] * sizes[:count]).all():
            return f"one of {count} tokens is off by more than rounding"
    bad_query, bad_value = query.clone(), value.clone()
    bad_query[1], bad_value[:, :, 0, 0] = torch.nan, torch.nan
    lost = ~run(slice(most), query=bad_query)[1].isnan().any(-1)
    lost_value = ~run(slice(most), value=bad_value)[..., 0].isnan()
    return "NaN became numbers" if lost.any() or lost_value.any() else ""

"""A head for a target that was widened, see `mtad.testing.widen`: the same drafts at a higher cost.

What enters the widened target's head is what entered the small one's, followed by zeros. So the
weights are the small ones in a corner; where a norm divides by a mean over more numbers, a factor
makes up for it.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import nn

from mtad.model.recurrent_head import RecurrentHead


@torch.no_grad()
def widen_head(
    head: RecurrentHead, embedding: nn.Module, hidden_size: int, intermediate_size: int
) -> RecurrentHead:
    """The head that computes the function of `head` beside a widened target.

    Args:
        head: a trained one.
        embedding: the widened target's.
        hidden_size: of the widened target.
        intermediate_size: of the new head.

    Raises:
        ValueError: a size is smaller than the head's own.
    """
    old = head.config
    for name, size in (("hidden_size", hidden_size), ("intermediate_size", intermediate_size)):
        if size < (least := getattr(old, name)):
            raise ValueError(f"{name} is {size}; it must be at least the head's own, {least}")
    share = old.hidden_size / hidden_size
    config = replace(
        old,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        rms_norm_eps=old.rms_norm_eps * share,
    )
    wide = RecurrentHead(config, embedding).to(head.device, head.dtype).eval()
    _fill(wide, head, math.sqrt(share))
    return wide


def _fill(wide: RecurrentHead, head: RecurrentHead, scale: float) -> None:
    """Set the weights; `scale` is what values of root mean square 1 are too large by, inverted."""
    for name, weight in wide.named_parameters():
        weight.fill_(1.0 if name == "mlp_norm" else 0.0)
    width, new = head.config.hidden_size, wide.config.hidden_size
    wide.fc.weight[:width, :width] = head.fc.weight[:, :width] * scale
    wide.fc.weight[:width, new : new + width] = head.fc.weight[:, width:]
    wide.fc.bias[:width] = head.fc.bias
    wide.mlp_norm[:width] = head.mlp_norm * scale
    inner, size = head.config.intermediate_size, wide.config.intermediate_size
    for start, part in zip((0, size), head.gate_up.weight.chunk(2), strict=True):
        wide.gate_up.weight[start : start + inner, :width] = part
    wide.down.weight[:width, :inner] = head.down.weight
    wide.lm_head.weight[:, :width] = head.lm_head.weight
    wide.norm_weight[:width] = head.norm_weight
    wide.norm_bias[:width] = head.norm_bias
    wide.d2t.copy_(head.d2t)

"""Exponentials and logarithms of laws of which most tokens have no part, and their distance.

The processor's functions leave their quick path at e^-inf and log 0, and take five to eight times
as long; laws after top-k or top-p are nearly all that. So neither is asked for here. Knows no law.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

_LEAST = -86.9
"""e to at most this counts as 0; it is near the smallest float32 of full precision."""
_BELOW = -87.0
"""What is asked for in the place of all that is less."""


def exp_of(logs: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """E to each of these float32 numbers, to the bit where it is more than 0."""
    if logs.device.type != "cpu":
        return logs.exp()
    return F.threshold(logs.clamp_min(_BELOW).exp(), math.exp(_LEAST), 0.0)


def log_of(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The logarithm of each of these float32 numbers, none of them negative, to the bit."""
    if values.device.type != "cpu":
        return values.log()
    return F.threshold(values.clamp_min(math.exp(_BELOW)).log(), _LEAST, -math.inf)


def total_variation(
    p: Float[Tensor, "*laws vocab"], q: Float[Tensor, "*laws vocab"]
) -> Float[Tensor, "*laws"]:
    """Half the sum of |p - q|, of each two laws as probabilities."""
    return (p - q).abs().sum(-1) / 2

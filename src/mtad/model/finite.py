"""Logits that are NaN or infinite: where they are, and the error that ends their request.

Knows no cache and no method.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mtad.errors import NonFiniteLogitsError

NOWHERE = 2**62
"""Position that stands for 'no bad logits seen'."""


def first_bad(
    logits: Float[Tensor, "rows nodes vocab"], positions: Int[Tensor, "rows nodes"]
) -> Int[Tensor, " rows"]:
    """The first position of each row whose logits are NaN or infinite, `NOWHERE` if none are.

    -inf is fine, unless all logits of a node are.
    """
    return torch.where(logits.amax(-1).isfinite(), NOWHERE, positions).amin(1)


def failure(model: str, position: int, request: int) -> NonFiniteLogitsError | None:
    """The error of a request, given a model's first bad position in it; None for `NOWHERE`."""
    if position == NOWHERE:
        return None
    return NonFiniteLogitsError(
        f"the {model} model returned NaN or infinite logits after position {position} of request "
        f"{request}; check its weights, or load it in float32 or bfloat16 if it is in float16"
    )

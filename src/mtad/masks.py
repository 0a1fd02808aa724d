"""Who sees whom: the mask of a token tree, and the kinds of attention that a model mixes.

Knows no model and no cache.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def tree_mask(
    lengths: Tensor, slots: Tensor, positions: Tensor, ancestors: Tensor, bucket: int
) -> tuple[Tensor, Tensor]:
    """Which slots each node sees, (B, n, bucket), and the text position of every slot."""
    places = torch.arange(bucket, device=lengths.device).expand(len(lengths), -1)
    committed = (places < lengths[:, None])[:, None].expand(-1, ancestors.shape[1], -1)
    index = slots[:, None].expand(-1, ancestors.shape[1], -1)
    return committed.scatter(2, index, ancestors), places.scatter(1, slots, positions)


def attention_pattern(config: Any) -> tuple[int | None, tuple[str, ...] | None]:
    """The sliding window, if any layer has one, and the layer types where they are mixed."""
    window = getattr(config, "sliding_window", None)
    types = tuple(sorted(set(getattr(config, "layer_types", None) or ())))
    if types and not any("sliding" in t for t in types):
        return None, None
    return window, types if len(types) > 1 else None

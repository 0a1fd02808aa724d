"""Who sees whom: the mask of a token tree, and the kinds of attention that a model mixes.

Knows no model and no cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool, Int
from torch import Tensor


def tree_mask(
    lengths: Tensor, slots: Tensor, positions: Tensor, ancestors: Tensor, places: Tensor
) -> tuple[Tensor, Tensor]:
    """Which of the slots (1, W) each node sees, (B, n, W), and the text position of every slot."""
    places = places.expand(len(lengths), -1)
    committed = (places < lengths[:, None])[:, None].expand(-1, ancestors.shape[1], -1)
    index = slots[:, None].expand(-1, ancestors.shape[1], -1)
    return committed.scatter(2, index, ancestors), places.scatter(1, slots, positions)


@dataclass(frozen=True)
class AttentionPattern:
    """How far the layers of a model look back.

    Attributes:
        window: the sliding window; None where every layer sees all.
        layer_types: the kinds of layers where they are mixed, else None.
    """

    window: int | None
    layer_types: tuple[str, ...] | None

    @classmethod
    def of(cls, config: Any) -> AttentionPattern:
        """The pattern that a model's config names."""
        window = getattr(config, "sliding_window", None)
        types = tuple(sorted(set(getattr(config, "layer_types", None) or ())))
        if types and not any("sliding" in t for t in types):
            return cls(None, None)
        return cls(window, types if len(types) > 1 else None)

    def masks(
        self,
        visible: Bool[Tensor, "rows nodes slots"],
        positions: Int[Tensor, "rows nodes"],
        keys: Int[Tensor, "rows slots"],
    ) -> Any:
        """The 4-D mask, or one per layer type where full and sliding layers are mixed.

        Args:
            visible: which slots each node may see.
            positions, keys: where in the text the nodes and the slots are.
        """
        if self.window is None:
            return visible[:, None]
        near = (positions[:, :, None] - keys[:, None, :]) < self.window
        local = (visible & near)[:, None]
        if self.layer_types is None:
            return local
        return {t: local if "sliding" in t else visible[:, None] for t in self.layer_types}

"""Log-probabilities of few tokens, where all others have none of the probability.

Knows no model and no method.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class SparseLogprobs:
    """Log-probabilities of some tokens after each node of a level.

    Attributes:
        values: (B, n, C) the log-probabilities.
        ids: (B, n, C) of these tokens. One may be there more than once; -inf but for one of them.
        vocab: V.
    """

    values: Float[Tensor, "rows nodes candidates"]
    ids: Int[Tensor, "rows nodes candidates"]
    vocab: int

    def dense(self) -> Float[Tensor, "rows nodes vocab"]:
        """The same over the whole vocabulary."""
        return self._spread(self.ids, self.vocab)

    def over(self, tokens: Int[Tensor, "rows some"]) -> Float[Tensor, "rows nodes some"]:
        """The same over some tokens of each row.

        Args:
            tokens: ascending, with all of `ids` among them. Of equal ones only the first counts.
        """
        return self._spread(places_among(tokens, self.ids.flatten(1)), tokens.shape[1])

    def _spread(self, places: Tensor, width: int) -> Tensor:
        empty = self.values.new_full((*self.values.shape[:2], width), float("-inf"))
        return empty.scatter_reduce(2, places.view(self.values.shape), self.values, "amax")


DraftLaw: TypeAlias = Float[Tensor, "rows _ vocab"] | SparseLogprobs
"""A draft's log-probabilities after the nodes of a level."""


def dense_of(law: DraftLaw) -> Float[Tensor, "rows _ vocab"]:
    """A law over the whole vocabulary."""
    return law.dense() if isinstance(law, SparseLogprobs) else law


def places_among(
    tokens: Int[Tensor, "rows some"], ids: Int[Tensor, "rows asked"]
) -> Int[Tensor, "rows asked"]:
    """Where ids first stand among ascending tokens that have them all."""
    return torch.searchsorted(tokens, ids.contiguous())

"""Texts on their way into a KV cache: what is fed of each, and where it goes. Knows no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mtad.model.finite import NOWHERE


@dataclass
class Prefill:
    """Texts on their way into the cache, in the rows that follow those in use.

    Attributes:
        tokens: (J, L) what is fed of each: all but the last token and those that the row has
            already, right-padded.
        lengths: (J,) all but the last token of each.
        cached: (J,) how many of these the row has already.
        bad, hidden: (J,) and (J, H) as in `mtad.model.lm.LM`.
        num_cached: as `cached`, on the host.
        longest: the greatest of `lengths`, 1 at least.
        start: tokens fed so far.
    """

    tokens: Int[Tensor, "joining text"]
    lengths: Int[Tensor, " joining"]
    cached: Int[Tensor, " joining"]
    bad: Int[Tensor, " joining"]
    hidden: Float[Tensor, "joining hidden"]
    num_cached: Sequence[int]
    longest: int
    start: int = 0

    @classmethod
    def of(
        cls, texts: Sequence[Sequence[int]], hidden: Tensor, num_cached: Sequence[int]
    ) -> Prefill:
        """Texts of which nothing is fed, on the device of their hidden states."""
        rests = [text[n:-1] for text, n in zip(texts, num_cached, strict=True)]
        width = max(1, *map(len, rests))  # one token at least: it makes the buffers
        padded = [[*rest, *[0] * (width - len(rest))] for rest in rests]
        tokens = torch.tensor(padded, device=hidden.device, dtype=torch.int64)
        counts = [len(text) - 1 for text in texts]
        lengths, cached = (
            torch.tensor(numbers, dtype=torch.int64, device=hidden.device)
            for numbers in (counts, num_cached)
        )
        bad = torch.full_like(lengths, NOWHERE)
        return cls(tokens, lengths, cached, bad, hidden, num_cached, max(1, *counts))

    def slots(self, chunk: slice, capacity: int) -> Int[Tensor, "joining chunk"]:
        """Where the tokens of a chunk go; padding beyond the last slot goes there."""
        places = torch.arange(chunk.start, chunk.stop, device=self.cached.device)
        return (self.cached[:, None] + places).clamp(max=capacity - 1)

    def reach(self, chunk: slice) -> int:
        """Slots that a chunk's tokens, padding included, may go to."""
        return max(self.num_cached) + int(chunk.stop)

    def last_in(self, chunk: slice) -> Int[Tensor, " joining"]:
        """Where in a chunk each text ends, its nearest place where that is outside."""
        places: Tensor = self.lengths - self.cached - 1 - chunk.start
        return places.clamp(0, chunk.stop - chunk.start - 1)

    def keep(self, hidden: Float[Tensor, "joining hidden"], chunk: slice) -> None:
        """Take the hidden states at `last_in` of the texts that do end in this chunk."""
        fed = self.lengths - self.cached
        ends = (fed > chunk.start) & (fed <= chunk.stop)
        self.hidden = torch.where(ends[:, None], hidden, self.hidden)

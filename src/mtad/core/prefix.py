"""The committed text of every row: what a draft may look at.

Knows no model and no method.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from mtad.core.tree import TokenTree

Rows = TypeVar("Rows", bound=Any)
NO_GRAMMAR = 0
"""Stands for no grammar in a row, where others have one."""


def select_rows(value: Rows, rows: Int[Tensor, " kept"]) -> Rows:
    """A dataclass of (B, …) tensors with only `rows`, in that order."""
    tensors = {f.name: getattr(value, f.name) for f in fields(value)}
    picked = {k: v.index_select(0, rows) for k, v in tensors.items() if isinstance(v, Tensor)}
    return replace(value, **picked)


@dataclass(frozen=True)
class Prefix:
    """What is committed: the text of every row.

    Attributes:
        tokens: (B, T) prompt and output, right-padded.
        lengths: (B,) number of committed tokens.
        prompt_lengths: (B,) of which prompt.
        budgets: (B,) most new tokens a row may have.
        eos: (B, E) token ids that end the text, padded with -1.
        horizon: a bound on the budgets, known to the host; the largest of them where the target
            itself drafts.
        ledger: (B, S) numbers that the method has kept of each text, see `Method.entries`; None
            where it keeps none.
        grammars: (B,) the number of each text's grammar, see `mtad.grammar.masks`; None where no
            text has one.
    """

    tokens: Int[Tensor, "rows text"]
    lengths: Int[Tensor, " rows"]
    prompt_lengths: Int[Tensor, " rows"]
    budgets: Int[Tensor, " rows"]
    eos: Int[Tensor, "rows stops"]
    horizon: int
    ledger: Float64[Tensor, "rows entries"] | None = None
    grammars: Int[Tensor, " rows"] | None = None

    @property
    def num_new(self) -> Int[Tensor, " rows"]:
        """Output tokens so far."""
        return self.lengths - self.prompt_lengths

    def last(self, back: int = 1) -> Int[Tensor, " rows"]:
        """The token `back` places from the end, the first one where the text is shorter."""
        index = (self.lengths - back).clamp(min=0)
        return self.tokens.gather(1, index[:, None]).squeeze(1)

    def before_last(self, count: int) -> Int[Tensor, "rows count"]:
        """The `count` tokens before the last one, the first one where the text is shorter."""
        offsets = torch.arange(count, device=self.tokens.device) - (count + 1)
        return self.tokens.gather(1, (self.lengths[:, None] + offsets).clamp(min=0))

    def root(self) -> TokenTree:
        """The tree every draft starts from."""
        return TokenTree.root(self.last(), self.last(2))

    def is_eos(self, tokens: Int[Tensor, "rows width"]) -> Bool[Tensor, "rows width"]:
        """Which tokens end the text."""
        return (tokens[:, :, None] == self.eos[:, None, :]).any(-1)

    def may_draft(self, depth: int, reserved: int = 1) -> Bool[Tensor, " rows"]:
        """Whether a node at `depth` fits the budget, `reserved` tokens kept for the endpoint."""
        return self.num_new + depth + reserved <= self.budgets

    def within(self, horizon: int) -> Prefix:
        """The same text with this bound on the budgets."""
        return replace(self, horizon=horizon)

    def join(self, other: Prefix) -> Prefix:
        """The rows of both, those of `other` last; `grammars` is to be set anew."""
        names = [f.name for f in fields(self) if f.name != "grammars"]
        pairs = {name: (getattr(self, name), getattr(other, name)) for name in names}
        fills = {"tokens": 0, "eos": -1}
        tensors = {n: pair for n, pair in pairs.items() if isinstance(pair[0], Tensor)}
        joined = {n: _stack(*pair, fills.get(n, 0)) for n, pair in tensors.items()}
        return Prefix(**joined, horizon=max(self.horizon, other.horizon))

    def append(
        self,
        block: Int[Tensor, "rows width"],
        counts: Int[Tensor, " rows"],
        ledger: Float[Tensor, "rows entries"] | None = None,
    ) -> Prefix:
        """The prefix with the first `counts` tokens of each row's block.

        `ledger` has its new entries; None leaves them as they are.
        """
        offsets = torch.arange(block.shape[1], device=block.device)
        index = self.lengths[:, None] + offsets
        fits = (offsets < counts[:, None]) & (index < self.tokens.shape[1])
        block = torch.where(fits, block, self.tokens[:, :1])  # the first token stays what it is
        tokens = self.tokens.scatter(1, torch.where(fits, index, 0), block)
        kept = self.ledger if ledger is None else ledger.double()
        return replace(self, tokens=tokens, lengths=self.lengths + counts, ledger=kept)


def _stack(above: Tensor, below: Tensor, fill: int) -> Tensor:
    """Both one below the other, the narrower table padded with `fill`."""
    if above.dim() == 1:
        return torch.cat([above, below])
    width = max(above.shape[1], below.shape[1])
    pad = torch.nn.functional.pad
    return torch.cat([pad(t, (0, width - t.shape[1]), value=fill) for t in (above, below)])


def places_without(gone: Collection[int], total: int) -> list[int]:
    """The rows that stay of `total`; the last ones take the places of those that are gone."""
    gone, kept = frozenset(gone), total - len(gone)
    movers = iter([row for row in range(kept, total) if row not in gone])
    return [next(movers) if row in gone else row for row in range(kept)]

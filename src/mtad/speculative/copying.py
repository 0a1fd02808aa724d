"""Drafts that copy: where the end of the text stood before, the token that followed it is likely.

A draft with copy rates r_0 … r_M looks up the last tokens before a place, M at most, in the
committed text. If m of them stood there before, the token c that followed is copied with rate r_m,

    q'(x) = (1 - r_m) q(x) + r_m [x = c]

The longest match is taken, the last one among equals. q' is the draft's law like any other, so that
methods need to know nothing of it. c may be any token, also one that the draft itself cannot say:
names in the prompt are seldom among the frequent tokens that a trimmed draft keeps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mtad.core.prefix import Prefix
from mtad.core.tree import TokenTree
from mtad.sampling.truncation import NEVER


@dataclass(frozen=True)
class Copies:
    """What may be copied after each node of a level.

    Attributes:
        tokens: (B, n) the token that followed the match; any token where there is none.
        rates: (B, n) its share of the draft's law.
    """

    tokens: Int[Tensor, "rows width"]
    rates: Float[Tensor, "rows width"]

    @classmethod
    def after(cls, tree: TokenTree, prefix: Prefix, rates: Float[Tensor, " matches"]) -> Copies:
        """Those after the deepest level of a tree.

        Args:
            tree: below the last token of the committed text.
            prefix: the committed text.
            rates: (M + 1,) by the length of the match.
        """
        last = _last_tokens(tree, prefix, len(rates) - 1)
        places = torch.arange(prefix.tokens.shape[1], device=prefix.tokens.device)
        has_next = (places < prefix.lengths[:, None] - 1)[:, None]
        tokens, lengths = what_followed(prefix.tokens[:, None], last, has_next)
        return cls(tokens, rates[lengths])

    def where(self, allowed: Bool[Tensor, "rows width"]) -> Copies:
        """The same, copying allowed tokens alone."""
        return Copies(self.tokens, torch.where(allowed, self.rates, 0.0))

    def mixed(
        self,
        values: Float[Tensor, "rows width candidates"],
        is_copied: Bool[Tensor, "rows width candidates"],
    ) -> Float[Tensor, "rows width candidates_and_one"]:
        """The law that copies: of the candidates, and last of the copied token.

        Args:
            values: the draft's log-probabilities.
            is_copied: which candidate is the copied token; it gives all that it has to the last.
        """
        kept = values + (1 - self.rates).log()[:, :, None]
        own = kept.masked_fill(~is_copied, NEVER).amax(-1)
        copied = torch.logaddexp(own, self.rates.log())
        return torch.cat([kept.masked_fill(is_copied, NEVER), copied[:, :, None]], dim=2)

    def decided(self, rows: Bool[Tensor, "rows 1 1"], raw: Tensor) -> Copies:
        """The same, but all or nothing in some rows: what a draft of temperature 0 copies.

        Args:
            rows: these.
            raw: (B, n, C + 1) the law that copies, without temperature.
        """
        wins = raw[:, :, -1] >= raw[:, :, :-1].amax(-1)
        return Copies(self.tokens, torch.where(rows[:, 0], wins.to(self.rates), self.rates))


def what_followed(
    text: Int[Tensor, "*#lead text"],
    last: Int[Tensor, "*lead back"],
    allowed: Bool[Tensor, "*#lead text"],
) -> tuple[Int[Tensor, "*lead"], Int[Tensor, "*lead"]]:
    """The token after the longest match, the last one among equals, and the match's length.

    Args:
        text, last, allowed: as for `matches`.

    Returns:
        Any token and 0 where nothing matches.
    """
    places = torch.arange(text.shape[-1], device=text.device)
    lengths = matches(text, last, allowed)
    best = (lengths * len(places) + places).argmax(-1, keepdim=True)
    following = text.expand(lengths.shape).gather(-1, (best + 1).clamp(max=len(places) - 1))
    return following[..., 0], lengths.gather(-1, best)[..., 0]


def matches(
    text: Int[Tensor, "*#lead text"],
    last: Int[Tensor, "*#lead back"],
    allowed: Bool[Tensor, "*#lead text"],
) -> Int[Tensor, "*#lead text"]:
    """How many of the last tokens stand at each place of a text and before it.

    Args:
        text: token ids.
        last: the last tokens before some other place, the nearest first.
        allowed: where the end of a match may lie; 0 elsewhere.
    """
    going, length = allowed, allowed.new_zeros((), dtype=torch.int64)
    for back in range(last.shape[-1]):
        shifted = torch.nn.functional.pad(text, (back, 0), value=-1)[..., : text.shape[-1]]
        going = going & (shifted == last[..., back : back + 1])
        length = length + going
    return length


def _last_tokens(tree: TokenTree, prefix: Prefix, count: int) -> Int[Tensor, "rows width back"]:
    """The tokens at and before each node of the deepest level, nearest first."""
    width = tree.widths[-1]
    start = tree.last_level.start
    nodes = torch.arange(start, start + width, device=tree.tokens.device).expand(tree.num_rows, -1)
    found = []
    for back in range(count):
        if back <= tree.depth:
            found.append(tree.tokens.gather(1, nodes))
            nodes = tree.parents.gather(1, nodes)
        else:
            found.append(prefix.last(back - tree.depth + 1)[:, None].expand(-1, width))
    return torch.stack(found, dim=2)

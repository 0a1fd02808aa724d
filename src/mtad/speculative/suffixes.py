"""Drafts from text already seen: what followed the end of a text where it stood before.

Only committed tokens are read, and nothing is read back to the host. Knows no model and no method.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mtad.core.noise import first_argmax
from mtad.core.prefix import Prefix
from mtad.core.tree import TokenTree
from mtad.speculative.copying import matches

NONE = -1
"""Stands where a text has no token."""


def seen_text(prefix: Prefix, corpus: Sequence[int] = ()) -> Int[Tensor, "rows text"]:
    """A corpus and each row's committed text, `NONE` between them and after them."""
    order = torch.arange(prefix.tokens.shape[1], device=prefix.tokens.device)
    own = torch.where(order < prefix.lengths[:, None], prefix.tokens, NONE)
    if not corpus:
        return own
    before = torch.tensor([*corpus, NONE], device=own.device, dtype=own.dtype)
    return torch.cat([before.expand(len(own), -1), own], dim=1)


def matches_of_end(
    text: Int[Tensor, "rows text"], prefix: Prefix, most: int
) -> Int[Tensor, "rows text"]:
    """How many tokens of a row's end stand at each place of a text and before it, `most` at most.

    0 where no token follows.

    Args:
        text: as of `seen_text`.
        prefix: the committed text.
        most: tokens that are compared.
    """
    last = torch.stack([prefix.last(back) for back in range(1, most + 1)], dim=1)
    has_next = torch.nn.functional.pad(text[:, 1:] != NONE, (0, 1))
    return matches(text, last, has_next).clamp(max=prefix.lengths[:, None])


@dataclass(frozen=True)
class Followed:
    """What stands at one depth after the places of a match, the most recent place first.

    Attributes:
        tokens: (B, P) the token there; `NONE` where the text, or the place, has ended.
        same: (B, P, P) which places have the same tokens down to this depth.
        share: (B, P) the product over the depths so far of the share of the places whose text went
            on that agree with this one.
    """

    tokens: Int[Tensor, "rows places"]
    same: Bool[Tensor, "rows places places"]
    share: Float[Tensor, "rows places"]

    @property
    def votes(self) -> Int[Tensor, "rows places"]:
        """How many places agree with each one; 0 where its text has ended."""
        return self.same.sum(2)

    @property
    def is_first(self) -> Bool[Tensor, "rows places"]:
        """Which places are the most recent ones of those that agree."""
        return self.same.any(2) & ~self.same.tril(-1).any(2)


def what_followed_places(
    text: Int[Tensor, "rows text"],
    found: Bool[Tensor, "rows text"],
    most: int,
    depth: int,
) -> list[Followed]:
    """What followed places of a text, by depth.

    Args:
        text: as of `seen_text`.
        found: the places.
        most: of them that are looked at, the last ones.
        depth: levels.
    """
    width = text.shape[1]
    order = torch.where(found, torch.arange(width, device=text.device), NONE)
    places = order.topk(min(most, width), dim=1).values
    is_place = places != NONE
    same = is_place[:, :, None] & is_place[:, None]
    share, levels = torch.ones_like(places, dtype=torch.float64), list[Followed]()
    for step in range(1, depth + 1):
        at = places + step
        tokens = text.gather(1, at.clamp(max=width - 1))
        tokens = torch.where(is_place & (at < width), tokens, NONE)
        goes_on = same & (tokens != NONE)[:, None]
        same = goes_on & (tokens[:, :, None] == tokens[:, None])
        share = share * same.sum(2) / goes_on.sum(2).clamp(min=1)
        levels.append(Followed(tokens, same, share))
    return levels


def most_followed(
    levels: Sequence[Followed],
) -> tuple[Int[Tensor, "rows depth"], Float[Tensor, "rows depth"]]:
    """The chain of the tokens that follow most places that have those before, and its shares.

    Of equals the token with the most recent place; a share of 0 where nothing followed.
    """
    kept = torch.ones_like(levels[0].tokens, dtype=torch.bool)
    tokens, shares = [], []
    for level in levels:
        votes = torch.where(kept, level.votes, 0)
        best = first_argmax(votes)[:, None]
        tokens.append(level.tokens.gather(1, best))
        shares.append(torch.where(votes.gather(1, best) > 0, level.share.gather(1, best), 0.0))
        kept = level.same.gather(1, best[:, :, None].expand(-1, 1, kept.shape[1]))[:, 0]
    return torch.cat(tokens, dim=1).clamp(min=0), torch.cat(shares, dim=1)


def tree_of_followed(
    levels: Sequence[Followed],
    usable: Sequence[Bool[Tensor, "rows places"]],
    prefix: Prefix,
    num_nodes: int,
) -> TokenTree:
    """The continuations of the largest shares, the shallower and then the more recent of equals.

    A level has as many nodes as it may need, so that there are more nodes than are alive.

    Args:
        levels: by depth.
        usable: the places whose continuation may be drafted down to each depth.
        prefix: the committed text.
        num_nodes: continuations, the root not counted.
    """
    chosen = _largest([le.share for le in levels], _all_of(levels, usable), num_nodes)
    tree, slots = prefix.root(), torch.zeros_like(levels[0].tokens)
    leaders = slots
    for depth, level in enumerate(levels[:num_nodes]):
        width = min(slots.shape[1], num_nodes - depth)
        picks = (~chosen[depth]).int().sort(dim=1, stable=True).indices[:, :width]
        alive = chosen[depth].gather(1, picks) & prefix.may_draft(depth + 1)[:, None]
        above = slots.gather(1, leaders).gather(1, picks)
        tokens = level.tokens.gather(1, picks).clamp(min=0)
        empty = torch.zeros_like(tokens, dtype=torch.float32)
        tree = tree.grow(tokens, tree.last_level.start + above, alive, empty)
        slots = torch.zeros_like(slots).scatter(
            1, picks, torch.arange(width, device=picks.device).expand_as(picks)
        )
        leaders = level.same.int().argmax(2)
    return tree


def _all_of(
    levels: Sequence[Followed], usable: Sequence[Bool[Tensor, "rows places"]]
) -> list[Bool[Tensor, "rows places"]]:
    """The places that stand for a continuation of each depth that may be drafted."""
    down, found = torch.ones_like(usable[0]), []
    for level, ok in zip(levels, usable, strict=True):
        down = down & ok
        found.append(down & level.is_first)
    return found


def _largest(
    shares: Sequence[Float[Tensor, "rows places"]],
    among: Sequence[Bool[Tensor, "rows places"]],
    count: int,
) -> list[Bool[Tensor, "rows places"]]:
    """Which of these have the `count` largest shares of a row; the first ones of equals."""
    flat, width = torch.cat([*among], dim=1), shares[0].shape[1]
    order = torch.where(flat, torch.cat([*shares], dim=1), -1.0).sort(
        dim=1, stable=True, descending=True
    )
    ranks = torch.arange(flat.shape[1], device=flat.device).expand_as(order.indices)
    rank = torch.zeros_like(order.indices).scatter(1, order.indices, ranks)
    return list((flat & (rank < count)).view(len(flat), -1, width).unbind(1))

"""How drafts are made: sampled trees, level by level, with static shapes.

The drafter is fed one level at a time. Nothing here reads a tensor back to the host.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, TypeAlias

import torch
from annotated_types import MinLen
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mtad.core.noise import Noise, sample_many
from mtad.core.options import Count, Doc
from mtad.core.prefix import Prefix
from mtad.core.tree import TokenTree
from mtad.model.lm import LM
from mtad.sampling.truncation import NEVER, spread
from mtad.sampling.warper import Warper

TreeShape: TypeAlias = Annotated[
    tuple[Count, ...], MinLen(1), Doc(allowed="a list of integers >= 1, not empty, such as 4,2,2")
]
"""Children per node, level by level."""


def may_extend(tree: TokenTree, prefix: Prefix, reserved: int = 1) -> Bool[Tensor, "rows width"]:
    """Which nodes of the deepest level may have children: alive, no EOS, within the budget.

    The root may be an EOS: a prompt may end in one.
    """
    tokens = tree.tokens[:, tree.last_level]
    alive = tree.alive[:, tree.last_level] & prefix.may_draft(tree.depth + 1, reserved)[:, None]
    return alive if tree.depth == 0 else alive & ~prefix.is_eos(tokens)


@dataclass(frozen=True)
class LevelLogprobs:
    """Log-probabilities after a level's nodes, over the whole vocabulary or over a few candidates.

    Attributes:
        values: (B, n, C) log-probabilities.
        ids: (B, n, C) the candidates' token ids, ascending; None where they are the vocabulary.
        vocab: V.
    """

    values: Float[Tensor, "rows width candidates"]
    ids: Int[Tensor, "rows width candidates"] | None
    vocab: int

    @classmethod
    def of(cls, warp: Warper, logits: Tensor, tree: TokenTree) -> LevelLogprobs:
        """The warped ones of the deepest level."""
        return cls(*warp.compact(logits, tree, tree.last_level), logits.shape[2])

    def dense(self) -> Float[Tensor, "rows width vocab"]:
        """Values over the vocabulary, -inf where there is no candidate."""
        return self.values if self.ids is None else spread(self.values, self.ids, self.vocab)

    def pick(self, dense: Float[Tensor, "rows width vocab"]) -> Tensor:
        """The candidates' entries of `dense`, (B, n, C)."""
        return dense if self.ids is None else dense.gather(2, self.ids)

    def tokens(self, place: Int[Tensor, "rows width k"]) -> Int[Tensor, "rows width k"]:
        """The token ids of candidates."""
        return place if self.ids is None else self.ids.gather(2, place)

    def pair_index(self) -> Int[Tensor, "rows width candidates"]:
        """The index of each candidate among all (node, token) pairs of the level."""
        nodes = torch.arange(self.values.shape[1], device=self.values.device)[:, None] * self.vocab
        if self.ids is not None:
            return nodes + self.ids
        index = nodes + torch.arange(self.vocab, device=self.values.device)
        return index.expand(self.values.shape[0], -1, -1)


def sampled_tree(
    lm: LM,
    prefix: Prefix,
    warp: Warper,
    noise: Noise,
    k_config: Sequence[int],
    replacement: bool = True,
) -> TokenTree:
    """A tree in which every node of level d has `k_config[d]` children drawn from the draft.

    Args:
        lm, prefix, warp, noise: as in `Method.draft`.
        k_config: children per node, level by level; (1, 1, 1) is a chain of three tokens.
        replacement: whether siblings are independent draws or drawn without replacement, in
            draw order. Without replacement, children beyond the draft's support are dead, and at
            temperature 0 the children are the most likely tokens.
    """
    tree = prefix.root()
    for depth, width in enumerate(k_config):
        logits = lm.forward_level(tree)
        level = LevelLogprobs.of(warp, logits, tree)
        if warp.greedy and not replacement:
            dense = level.dense()  # any token may be a child
            level = LevelLogprobs(dense, None, logits.shape[2])
        draw = f"draft {depth}"
        if replacement:
            place = sample_many(level.values, noise.uniform(draw, level.values.shape[1], width))
        else:
            place = _distinct(level, warp, logits, tree, noise, draw, width)
        tree = _add_children(tree, prefix, level, place, warp)
    return tree


def _distinct(
    level: LevelLogprobs,
    warp: Warper,
    logits: Tensor,
    tree: TokenTree,
    noise: Noise,
    tag: str,
    width: int,
) -> Tensor:
    """Places of `width` candidates of each node, drawn without replacement, in draw order."""
    gumbel = noise.gumbel_at(tag, level.pair_index().flatten(1))
    scores = level.values + gumbel.view(level.values.shape)
    if warp.greedy:
        scores = torch.where(warp.is_greedy, warp.raw(logits, tree, tree.last_level), scores)
    return scores.topk(min(width, scores.shape[2]), dim=2).indices


def _add_children(
    tree: TokenTree, prefix: Prefix, level: LevelLogprobs, place: Tensor, warp: Warper
) -> TokenTree:
    """The tree with the candidates at `place` (B, width, k) below the nodes of its last level."""
    values, tokens = level.values.gather(2, place), level.tokens(place)
    drawn = values > NEVER
    if warp.greedy:
        drawn = drawn | warp.is_greedy
    alive = may_extend(tree, prefix)[:, :, None] & drawn
    start, width, k = tree.last_level.start, *tokens.shape[1:]
    parents = torch.arange(start, start + width, device=tokens.device).repeat_interleave(k)
    return tree.grow(
        tokens.flatten(1),
        parents.expand(tree.num_rows, -1),
        alive.flatten(1),
        torch.where(alive & (values > NEVER), values, 0.0).flatten(1),
        level.dense(),
    )


def num_tree_nodes(k_config: Sequence[int]) -> int:
    """Nodes of a tree with these children per level, root included."""
    return sum(math.prod(k_config[:depth]) for depth in range(len(k_config) + 1))

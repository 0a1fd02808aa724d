"""How drafts are made: sampled trees, level by level, with static shapes.

The drafter is fed one level at a time. Nothing here reads a tensor back to the host.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, TypeAlias

import torch
from annotated_types import MinLen
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mtad.core.noise import Noise, sample_many
from mtad.core.options import Count, Doc
from mtad.core.prefix import Prefix
from mtad.core.tree import TokenTree
from mtad.model.drafter import Drafter
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
    """Log-probabilities after a level's nodes: of all that the drafter says, or a few candidates.

    Attributes:
        values: (B, n, C) log-probabilities.
        places: (B, n, C) where the candidates are among the drafter's logits, ascending; None where
            they are all of these.
        token_ids: (D,) the token of each of the drafter's logits, ascending; None where the drafter
            has the whole vocabulary.
        vocab: V.
    """

    values: Float[Tensor, "rows width candidates"]
    places: Int[Tensor, "rows width candidates"] | None
    token_ids: Int[Tensor, " tokens"] | None
    vocab: int

    @classmethod
    def of(cls, warp: Warper, logits: Tensor, tree: TokenTree) -> LevelLogprobs:
        """The warped ones of the deepest level."""
        values, places = warp.compact(logits, tree, tree.last_level)
        return cls(values, places, warp.token_ids, warp.vocab)

    @classmethod
    def raw(cls, warp: Warper, logits: Tensor, tree: TokenTree) -> LevelLogprobs:
        """Those of the deepest level without temperature and truncation."""
        values = warp.raw_compact(logits, tree, tree.last_level)
        return cls(values, None, warp.token_ids, warp.vocab)

    @cached_property
    def ids(self) -> Int[Tensor, "rows width candidates"] | None:
        """The candidates' token ids, ascending; None where they are the vocabulary."""
        if self.token_ids is None:
            return self.places
        if self.places is None:
            return self.token_ids.expand(self.values.shape)
        return self.token_ids[self.places]

    def dense(self) -> Float[Tensor, "rows width vocab"]:
        """Values over the vocabulary, -inf where there is no candidate."""
        return self.values if self.ids is None else spread(self.values, self.ids, self.vocab)

    def complete(self) -> LevelLogprobs:
        """The same with all that the drafter says as candidates, -inf where there was none."""
        if self.places is None:
            return self
        width = self.vocab if self.token_ids is None else len(self.token_ids)
        return replace(self, values=spread(self.values, self.places, width), places=None)

    def pick(self, scores: Float[Tensor, "rows width tokens"]) -> Tensor:
        """The candidates' entries of scores of all that the drafter says, (B, n, C)."""
        return scores if self.places is None else scores.gather(2, self.places)

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
    lm: Drafter,
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
            level = level.complete()  # any token may be a child
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
        raw = warp.raw_compact(logits, tree, tree.last_level)
        scores = torch.where(warp.is_greedy, raw, scores)
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

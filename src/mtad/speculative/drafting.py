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

from mtad.core.noise import Noise, sample_distinct, sample_many
from mtad.core.options import Count, Doc
from mtad.core.prefix import Prefix
from mtad.core.sparse import DraftLaw, SparseLogprobs, dense_of
from mtad.core.tree import TokenTree
from mtad.grammar.masks import exclude, may_follow
from mtad.model.drafter import Drafter
from mtad.sampling.truncation import NEVER, spread
from mtad.sampling.warper import Warper
from mtad.speculative.copying import Copies

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
        copied: (B, n) the token of one more candidate, the last of C, which `places` leaves out;
            where another candidate is the same token, that one has none of the probability. None
            where the drafter does not copy.
    """

    values: Float[Tensor, "rows width candidates"]
    places: Int[Tensor, "rows width own_candidates"] | None
    token_ids: Int[Tensor, " tokens"] | None
    vocab: int
    copied: Int[Tensor, "rows width"] | None = None

    @cached_property
    def ids(self) -> Int[Tensor, "rows width candidates"] | None:
        """The candidates' token ids; None where they are the vocabulary."""
        own = self._own_ids
        if self.copied is None:
            return own
        if own is None:
            every = torch.arange(self.vocab, device=self.values.device)
            own = every.expand(*self.copied.shape, -1)
        return torch.cat([own, self.copied[:, :, None]], dim=2)

    @property
    def _own_ids(self) -> Tensor | None:
        """Those of the drafter's own candidates, ascending."""
        if self.token_ids is None:
            return self.places
        if self.places is None:
            return self.token_ids.expand(*self.values.shape[:2], -1)
        return self.token_ids[self.places]

    def with_copies(self, copies: Copies) -> LevelLogprobs:
        """The law of a drafter that also copies."""
        own = self.ids
        if own is None:
            own = torch.arange(self.vocab, device=self.values.device)
        values = copies.mixed(self.values, own == copies.tokens[:, :, None])
        return replace(self, values=values, copied=copies.tokens)

    def dense(self) -> Float[Tensor, "rows width vocab"]:
        """Values over the vocabulary, -inf where there is no candidate."""
        return dense_of(self.law)

    @property
    def law(self) -> DraftLaw:
        """What a tree keeps: dense only where the candidates are the vocabulary."""
        if self.ids is None:
            return self.values
        if self._own_ids is not None:
            return SparseLogprobs(self.values, self.ids, self.vocab)
        assert self.copied is not None
        return self.values[:, :, :-1].scatter(2, self.copied[:, :, None], self.values[:, :, -1:])

    def complete(self) -> LevelLogprobs:
        """The same with all that the drafter says as candidates, -inf where there was none."""
        if self.places is None:
            return self
        width = self.vocab if self.token_ids is None else len(self.token_ids)
        count = self.places.shape[2]
        wide = spread(self.values[:, :, :count], self.places, width)
        return replace(self, values=torch.cat([wide, self.values[:, :, count:]], 2), places=None)

    def pick(self, scores: Float[Tensor, "rows width tokens"]) -> Tensor:
        """The candidates' entries, (B, n, C), of scores of all that the drafter says."""
        if self.places is None:
            return scores
        if self.copied is None:
            return scores.gather(2, self.places)
        return torch.cat([scores.gather(2, self.places), scores[:, :, -1:]], dim=2)

    def tokens(self, place: Int[Tensor, "rows width k"]) -> Int[Tensor, "rows width k"]:
        """The token ids of candidates."""
        return place if self.ids is None else self.ids.gather(2, place)


@dataclass(frozen=True)
class Given:
    """The beginning of a chain that is drafted whatever the drafter says.

    Attributes:
        tokens: (B, D) by depth; any token where there is none.
        there: (B, D) which there are, in each row a prefix.
    """

    tokens: Int[Tensor, "rows depth"]
    there: Bool[Tensor, "rows depth"]


@dataclass(frozen=True)
class Level:
    """What a drafter says after the deepest level of a tree.

    Attributes:
        logits: (B, n, D) its logits.
        tree: the tree.
        warp: as in `Method.draft`.
        copies: what it copies besides; None for one that does not.
    """

    logits: Float[Tensor, "rows width tokens"]
    tree: TokenTree
    warp: Warper
    copies: Copies | None

    @classmethod
    def after(cls, lm: Drafter, tree: TokenTree, prefix: Prefix, warp: Warper) -> Level:
        """Feed the deepest level; the levels above must have been fed before."""
        logits, rates = lm.forward_level(tree), lm.copy_rates
        exclude(logits, tree, prefix, tree.last_level, lm.token_ids)
        copies = None if rates is None else Copies.after(tree, prefix, rates.to(logits.device))
        if copies is not None and prefix.grammars is not None:
            copies = copies.where(may_follow(copies.tokens, tree, prefix.grammars))
        return cls(logits, tree, warp, copies)

    def with_given(self, given: Given) -> Level:
        """The same, certain of the given token in the rows that have one; for a chain."""
        tokens, there = (rows[:, self.tree.depth, None] for rows in (given.tokens, given.there))
        own = self.copies or Copies(tokens, torch.zeros_like(tokens, dtype=torch.float32))
        rates = torch.where(there, 1.0, own.rates)
        return replace(self, copies=Copies(torch.where(there, tokens, own.tokens), rates))

    @cached_property
    def raw(self) -> LevelLogprobs:
        """Log-probabilities without temperature and truncation, of all that the drafter says."""
        values = self.warp.raw_compact(self.logits, self.tree, self.tree.last_level)
        return self._copying(self._of(values, None), self.copies)

    @cached_property
    def warped(self) -> LevelLogprobs:
        """Log-probabilities as they are drawn from."""
        level = self._of(*self.warp.compact(self.logits, self.tree, self.tree.last_level))
        copies = self.copies
        if copies is not None and self.warp.greedy:
            copies = copies.decided(self.warp.is_greedy, self.raw.values)
        return self._copying(level, copies)

    @cached_property
    def judged(self) -> DraftLaw:
        """The law that tests on probabilities read, see `Warper.judging_logprobs`."""
        if not self.warp.greedy:
            return self.warped.law
        raw = self.raw.dense().nan_to_num(nan=NEVER, neginf=NEVER)  # NaN where all is banned
        return torch.where(self.warp.is_greedy, raw, self.warped.dense())

    def _of(self, values: Tensor, places: Tensor | None) -> LevelLogprobs:
        return LevelLogprobs(values, places, self.warp.token_ids, self.warp.vocab)

    def _copying(self, level: LevelLogprobs, copies: Copies | None) -> LevelLogprobs:
        return level if copies is None else level.with_copies(copies)


def given_chain(prefix: Prefix, given: Given) -> TokenTree:
    """The chain of given tokens alone, which has no law."""
    tree, values = prefix.root(), torch.zeros_like(given.tokens[:, :1], dtype=torch.float32)
    for depth in range(given.tokens.shape[1]):
        token = given.tokens[:, depth, None]
        alive = may_extend(tree, prefix) & given.there[:, depth, None]
        tree = tree.grow(token, torch.full_like(token, depth), alive, values)
    return tree


def sampled_tree(
    lm: Drafter,
    prefix: Prefix,
    warp: Warper,
    noise: Noise,
    k_config: Sequence[int],
    replacement: bool = True,
    judged: bool = False,
    given: Given | None = None,
) -> TokenTree:
    """A tree in which every node of level d has `k_config[d]` children drawn from the draft.

    Args:
        lm, prefix, warp, noise: as in `Method.draft`.
        k_config: children per node, level by level; (1, 1, 1) is a chain of three tokens.
        replacement: whether siblings are independent draws or drawn without replacement, in
            draw order. Without replacement, children beyond the draft's support are dead, and at
            temperature 0 the children are the most likely tokens.
        judged: whether the tree keeps the laws that tests on probabilities read; else those that
            the nodes were drawn from, which are one-hot at temperature 0.
        given: the tokens that a chain begins with; the law of each is one-hot at it.
    """
    tree = prefix.root()
    for depth, width in enumerate(k_config):
        said = Level.after(lm, tree, prefix, warp)
        said = said if given is None else said.with_given(given)
        level = said.warped
        if warp.greedy and not replacement:
            level = level.complete()  # any token may be a child
        num_children = width if replacement else min(width, level.values.shape[2])
        u = noise.uniform(f"draft {depth}", level.values.shape[1], num_children)
        if replacement:
            place = sample_many(level.values, u)
            drawn = level.values.gather(2, place) > NEVER
        else:
            place, drawn = _distinct(level, said, u)
        law = said.judged if judged else level.law
        tree = _add_children(tree, prefix, level, place, drawn, law)
    return tree


def sampled_chains(
    lm: Drafter, prefix: Prefix, warp: Warper, noise: Noise, count: int, length: int
) -> TokenTree:
    """So many chains of so many tokens, drawn independently; equal ones stay apart."""
    return sampled_tree(lm, prefix, warp, noise, (count, *(1,) * (length - 1)))


def _distinct(level: LevelLogprobs, said: Level, u: Tensor) -> tuple[Tensor, Tensor]:
    """Places of candidates of each node, in draw order, and which of them were drawn."""
    place, drawn = sample_distinct(level.values, u)
    if said.warp.greedy:
        best = said.raw.values.topk(u.shape[2], dim=2).indices
        place = torch.where(said.warp.is_greedy, best, place)
        drawn = drawn | said.warp.is_greedy
    return place, drawn


def _add_children(
    tree: TokenTree,
    prefix: Prefix,
    level: LevelLogprobs,
    place: Int[Tensor, "rows width k"],
    drawn: Bool[Tensor, "rows width k"],
    law: DraftLaw,
) -> TokenTree:
    """The tree with the candidates at `place` below the nodes of its last level."""
    values, tokens = level.values.gather(2, place), level.tokens(place)
    alive = may_extend(tree, prefix)[:, :, None] & drawn
    start, width, k = tree.last_level.start, *tokens.shape[1:]
    parents = torch.arange(start, start + width, device=tokens.device).repeat_interleave(k)
    return tree.grow(
        tokens.flatten(1),
        parents.expand(tree.num_rows, -1),
        alive.flatten(1),
        torch.where(alive & (values > NEVER), values, 0.0).flatten(1),
        law,
    )


def num_tree_nodes(k_config: Sequence[int]) -> int:
    """Nodes of a tree with these children per level, root included."""
    return sum(math.prod(k_config[:depth]) for depth in range(len(k_config) + 1))

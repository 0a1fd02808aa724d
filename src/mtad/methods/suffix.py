"""Suffix decoding: what followed the end of the text where it stood before is the draft.

The longest suffix of a row's text, at most `max_match` and at least `min_match` tokens, that stands
earlier in the row's text or in a corpus, with a token after it, is looked up, and all its places
vote. The draft is the token that follows most of them, then the token that follows most of those,
and so on; share is the product of the parts of the votes. It is cut before an EOS, where the share
is below `min_share`, and at `length_factor` times the length of the match. With `num_draft_nodes`
it is a tree of the continuations of the largest shares; the target scores more nodes than the tree
has, for each level is as wide as it may become. With p = target

    y_j ~ p_j;  accept d_j iff y_j = d_j;  at the first mismatch y_j is the next token

With `fallback="draft"` the draft model goes on where the text has nothing to say: the law of a
drafted token is one-hot where it was found, else q, and speculative sampling verifies the chain:

    accept d_j with probability min(1, p_j(d_j) / q_j(d_j)), q_j(d_j) = 1 where it was found

Lossless, for what is found depends on the committed text alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le
from jaxtyping import Bool, Float
from torch import Tensor

from mtad.core.noise import Noise
from mtad.core.options import Count
from mtad.core.prefix import Prefix
from mtad.core.tree import TokenTree
from mtad.errors import OptionError
from mtad.model.drafter import Drafter
from mtad.sampling.warper import Warper
from mtad.speculative.acceptance import accept_chain, accept_matches, passes_coin
from mtad.speculative.drafting import Given, given_chain, sampled_tree
from mtad.speculative.facts import Reads
from mtad.speculative.method import Method, Verdict, require
from mtad.speculative.suffixes import (
    matches_of_end,
    most_followed,
    seen_text,
    tree_of_followed,
    what_followed_places,
)


@dataclass(frozen=True)
class Suffix(Method):
    """Drafts from the text so far and a corpus, with votes, and perhaps a draft model behind them.

    Attributes:
        num_draft_tokens: most draft tokens on a path.
        max_match: longest suffix looked up.
        min_match: shortest match that drafts anything.
        min_share: the draft stops where its share of the votes falls below this.
        length_factor: most draft tokens per token of the match.
        num_draft_nodes: most draft tokens of a tree; none for a chain.
        max_places: the most recent occurrences that vote; no level of a tree is wider.
        corpus: token ids that are looked up beside the text; on a GPU iterations with a corpus are
            not captured; none for no corpus.
        fallback: what drafts where nothing is found: none or draft, the draft model.
    """

    num_draft_tokens: Count = 8
    max_match: Count = 16
    min_match: Count = 1
    min_share: Annotated[float, Ge(0), Le(1)] = 0.0
    length_factor: Annotated[float, Gt(0)] = math.inf
    num_draft_nodes: Count | None = None
    max_places: Count = 64
    corpus: tuple[Annotated[int, Ge(0)], ...] | None = None
    fallback: Literal["none", "draft"] = "none"

    name: ClassVar[str] = "suffix"
    lossless: ClassVar[bool] = True
    citation: ClassVar[str] = "Oliaro et al. 2024, arXiv 2411.04975"
    drafter: ClassVar[Literal["draft", "target", "none"]] = "none"
    drafting: ClassVar[tuple[str, ...]] = (
        "num_draft_tokens",
        "max_match",
        "min_match",
        "min_share",
        "length_factor",
        "num_draft_nodes",
        "max_places",
        "corpus",
        "fallback",
    )
    judges_candidates: ClassVar[bool] = True
    reads: ClassVar[Reads | None] = Reads("any")

    def __post_init__(self) -> None:
        """Refuse matches that cannot be, and a tree with a fallback, which is a chain."""
        super().__post_init__()
        has_match = self.min_match <= self.max_match
        require(has_match, self, "min_match", f"at most max_match, {self.max_match}")
        is_tree = self.num_draft_nodes is not None
        require(
            not is_tree or self.fallback == "none", self, "num_draft_nodes", "none with a fallback"
        )

    @property
    def drafted_by(self) -> Literal["draft", "target", "none"]:
        """The draft model where it is the fallback."""
        return self.fallback

    @property
    def needs(self) -> Reads | None:
        """With a fallback the rule is that of speculative sampling."""
        return self.reads if self.fallback == "none" else Reads("chain", draft="distributions")

    def draft(self, lm: Drafter | None, prefix: Prefix, warp: Warper, noise: Noise) -> TokenTree:
        """What followed most often, then what the draft model says."""
        text = seen_text(prefix, self.corpus or ())
        lengths = matches_of_end(text, prefix, self.max_match)
        length = lengths.amax(1, keepdim=True)
        found = (lengths == length) & (length >= self.min_match)
        levels = what_followed_places(text, found, self.max_places, self.num_draft_tokens)
        if self.num_draft_nodes is not None:
            each = [
                self._usable(
                    prefix, level.tokens, level.share, depth <= self.length_factor * length
                )
                for depth, level in enumerate(levels, 1)
            ]
            return tree_of_followed(levels, each, prefix, self.num_draft_nodes)
        tokens, shares = most_followed(levels)
        depths = torch.arange(1, self.num_draft_tokens + 1, device=tokens.device)
        usable = self._usable(prefix, tokens, shares, depths <= self.length_factor * length)
        given = Given(tokens, usable.int().cumprod(1).bool())
        if self.fallback == "none":
            return given_chain(prefix, given)
        assert lm is not None
        return sampled_tree(lm, prefix, warp, noise, (1,) * self.num_draft_tokens, given=given)

    def _usable(
        self,
        prefix: Prefix,
        tokens: Tensor,
        shares: Tensor,
        is_near: Tensor,
    ) -> Bool[Tensor, "rows width"]:
        """Which found tokens may be drafted, those above them left aside."""
        return (shares > 0) & (shares >= self.min_share) & is_near & ~prefix.is_eos(tokens)

    def verify(
        self,
        tree: TokenTree,
        target_logits: Float[Tensor, "rows nodes vocab"],
        warp: Warper,
        noise: Noise,
    ) -> Verdict:
        """The draft as far as it equals what the target draws, or passes speculative sampling."""
        p = warp(target_logits, tree)
        if self.fallback == "none":
            return accept_matches(tree, p, noise)
        return accept_chain(tree, p, passes_coin(tree, p, noise), noise)

    def num_nodes(self, vocab: int, max_new_tokens: int) -> int:
        """The chain, or the widest levels that the tree may need, and the root."""
        most = max(self.corpus or (0,))
        if most >= vocab:
            why = f"corpus has token {most}; it must have ids below {vocab}, those of the model"
            raise OptionError(f"{self.name}: {why}", "corpus")
        depth, nodes = self.num_draft_tokens, self.num_draft_nodes
        if nodes is None:
            return depth + 1
        return 1 + sum(min(self.max_places, nodes - level) for level in range(min(depth, nodes)))

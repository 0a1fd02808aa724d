"""Prompt lookup: the text so far is the draft model.

For n = n_max … 1 the last n tokens are looked up in the text before them; the tokens that followed
the first occurrence are the draft, cut before an EOS. With p = target, a token is drawn from p at
every position and the draft is followed while it equals the draws:

    y_j ~ p_j;  accept d_j iff y_j = d_j;  at the first mismatch y_j is the next token

which accepts d_j with probability p_j(d_j). Lossless, for the draft does not depend on the draws.
No match means one plain step. Needs no draft model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mtad.core.noise import Noise
from mtad.core.options import Count
from mtad.core.prefix import Prefix
from mtad.core.tree import TokenTree
from mtad.model.drafter import Drafter
from mtad.sampling.warper import Warper
from mtad.speculative.acceptance import accept_matches
from mtad.speculative.drafting import may_extend
from mtad.speculative.facts import Reads
from mtad.speculative.method import Method, Verdict


@dataclass(frozen=True)
class PromptLookup(Method):
    """Drafts copied from prompt and output.

    Attributes:
        num_draft_tokens: most draft tokens per iteration.
        max_matching_ngram_size: n_max, length of the longest n-gram looked up.
    """

    num_draft_tokens: Count = 10
    max_matching_ngram_size: Count = 2

    name: ClassVar[str] = "prompt_lookup"
    lossless: ClassVar[bool] = True
    citation: ClassVar[str] = "Saxena 2023, github.com/apoorvumang/prompt-lookup-decoding"
    drafter: ClassVar[Literal["draft", "target", "none"]] = "none"
    drafting: ClassVar[tuple[str, ...]] = ("num_draft_tokens", "max_matching_ngram_size")
    judges_candidates: ClassVar[bool] = True
    reads: ClassVar[Reads | None] = Reads("any")

    def draft(self, lm: Drafter | None, prefix: Prefix, warp: Warper, noise: Noise) -> TokenTree:
        """The continuation of the first occurrence of the longest n-gram that has one."""
        start = prefix.lengths
        for n in range(1, self.max_matching_ngram_size + 1):
            found = self._occurrences(prefix, n)
            start = torch.where(found.any(1), found.int().argmax(1) + n, start)
        tree = prefix.root()
        for depth in range(self.num_draft_tokens):
            place = start + depth
            token = prefix.tokens.gather(1, place.clamp(max=prefix.tokens.shape[1] - 1)[:, None])
            alive = (place < prefix.lengths)[:, None] & ~prefix.is_eos(token)
            alive = alive & may_extend(tree, prefix)
            parents = torch.full_like(token, depth)
            tree = tree.grow(token, parents, alive, torch.zeros_like(token, dtype=torch.float32))
        return tree

    def _occurrences(self, prefix: Prefix, n: int) -> Bool[Tensor, "rows text"]:
        """Where the last n tokens occur with at least one token after them."""
        width = prefix.tokens.shape[1]
        ends = torch.arange(width, device=prefix.tokens.device) + n
        match = (ends < prefix.lengths[:, None]) & (prefix.lengths[:, None] > n)
        for i in range(n):
            shifted = prefix.tokens.roll(-i, dims=1)
            match = match & (shifted == prefix.last(n - i)[:, None])
        return match

    def verify(
        self,
        tree: TokenTree,
        target_logits: Float[Tensor, "rows nodes vocab"],
        warp: Warper,
        noise: Noise,
    ) -> Verdict:
        """The draft as long as it equals what the target draws."""
        return accept_matches(tree, warp(target_logits, tree), noise)

    def num_nodes(self, vocab: int, max_new_tokens: int) -> int:
        """The chain and the root."""
        return self.num_draft_tokens + 1

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
from jaxtyping import Float
from torch import Tensor

from mtad.core.noise import Noise, first_argmax
from mtad.core.options import Count
from mtad.core.prefix import Prefix
from mtad.core.tree import TokenTree
from mtad.model.drafter import Drafter
from mtad.sampling.warper import Warper
from mtad.speculative.acceptance import accept_matches
from mtad.speculative.drafting import Given, given_chain
from mtad.speculative.facts import Reads
from mtad.speculative.method import Method, Verdict
from mtad.speculative.suffixes import matches_of_end, seen_text


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
        found = matches_of_end(seen_text(prefix), prefix, self.max_matching_ngram_size)
        start = torch.where(found.any(1), first_argmax(found) + 1, prefix.lengths)
        places = start[:, None] + torch.arange(self.num_draft_tokens, device=start.device)
        tokens = prefix.tokens.gather(1, places.clamp(max=prefix.tokens.shape[1] - 1))
        there = (places < prefix.lengths[:, None]) & ~prefix.is_eos(tokens)
        return given_chain(prefix, Given(tokens, there.int().cumprod(1).bool()))

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

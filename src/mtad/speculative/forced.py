"""Tokens that a grammar forces, as a draft that no model makes.

Where only one text can follow, such as the name of the next field, its tokens are proposed as they
are and verified like any others: each is followed while it equals what the target draws, as for
prompt lookup. A guard takes such iterations where all texts of a batch have forced tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from mtad.core.noise import Noise
from mtad.core.options import Count
from mtad.core.prefix import Prefix
from mtad.core.tree import TokenTree
from mtad.grammar.masks import forced_tokens
from mtad.model.drafter import Drafter
from mtad.sampling.warper import Warper
from mtad.speculative.acceptance import accept_matches
from mtad.speculative.drafting import Given, given_chain
from mtad.speculative.method import Method, Verdict


@dataclass(frozen=True)
class ForcedTokens(Method):
    """Drafts what the grammar leaves no choice of; lossless, as nothing of it is drawn.

    Attributes:
        num_draft_tokens: most draft tokens per iteration.
    """

    num_draft_tokens: Count = 8

    name: ClassVar[str] = "forced_tokens"
    lossless: ClassVar[bool] = True
    citation: ClassVar[str] = "llguidance calls them fast-forward tokens"
    drafter: ClassVar[Literal["draft", "target", "none"]] = "none"
    drafting: ClassVar[tuple[str, ...]] = ("num_draft_tokens",)
    judges_candidates: ClassVar[bool] = True

    def draft(self, lm: Drafter | None, prefix: Prefix, warp: Warper, noise: Noise) -> TokenTree:
        """The forced tokens; the root alone where there are none."""
        assert prefix.grammars is not None
        tokens, there = forced_tokens(prefix.grammars, self.num_draft_tokens)
        return given_chain(prefix, Given(tokens, there))

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

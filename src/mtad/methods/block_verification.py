"""Block verification: the draft of speculative sampling, accepted by its joint likelihood.

With p = target, q = draft, w_0 = 1 and w_i = min(1, w_(i-1) · p_i(d_i)/q_i(d_i)):

    R_i = Σ_x max(w_i p_(i+1)(x) - q_(i+1)(x), 0)
    h_i = R_i / (R_i + 1 - w_i) for i < γ;  h_γ = w_γ
    η = the largest i with U_i <= h_i, 0 if there is none
    endpoint ~ norm(max(w_η p_(η+1) - q_(η+1), 0)) if η < γ, else p_(γ+1)

Lossless, and never fewer tokens per iteration in expectation than speculative sampling: a weak
token may be carried by the strong ones after it. The closest lossless relative of MTAD.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from mtad.core.logs import exp_of
from mtad.core.noise import Noise
from mtad.core.options import Count
from mtad.core.prefix import Prefix
from mtad.core.tree import TokenTree
from mtad.model.drafter import Drafter
from mtad.sampling.warper import Warper
from mtad.speculative.acceptance import chain_logprobs, chain_path
from mtad.speculative.blocks import accept_block
from mtad.speculative.drafting import sampled_tree
from mtad.speculative.facts import Reads
from mtad.speculative.method import Method, Verdict


@dataclass(frozen=True)
class BlockVerification(Method):
    """Chain drafts verified as a block.

    Attributes:
        num_draft_tokens: γ, draft tokens per iteration.
    """

    num_draft_tokens: Count = 4

    name: ClassVar[str] = "block_verification"
    lossless: ClassVar[bool] = True
    citation: ClassVar[str] = "Sun et al., ICLR 2025, arXiv 2403.10444"
    drafting: ClassVar[tuple[str, ...]] = ("num_draft_tokens",)
    judges_candidates: ClassVar[bool] = True
    reads: ClassVar[Reads | None] = Reads("chain", draft="distributions")

    def draft(self, lm: Drafter | None, prefix: Prefix, warp: Warper, noise: Noise) -> TokenTree:
        """A chain sampled from the draft."""
        assert lm is not None
        return sampled_tree(lm, prefix, warp, noise, (1,) * self.num_draft_tokens)

    def verify(
        self,
        tree: TokenTree,
        target_logits: Float[Tensor, "rows nodes vocab"],
        warp: Warper,
        noise: Noise,
    ) -> Verdict:
        """The longest block whose test passes, then the residual or the bonus token."""
        p, alive = warp(target_logits, tree), tree.alive[:, 1:]
        log_ratio = (tree.token_values(p) - tree.node_logprobs)[:, 1:]
        block = accept_block(p, exp_of(chain_logprobs(tree)), log_ratio, alive, noise)
        return Verdict(chain_path(tree), *block)

    def num_nodes(self, vocab: int, max_new_tokens: int) -> int:
        """The chain and the root."""
        return self.num_draft_tokens + 1

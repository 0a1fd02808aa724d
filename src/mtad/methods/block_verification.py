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

import torch
from jaxtyping import Float
from torch import Tensor

from mtad.core.logs import exp_of
from mtad.core.noise import Noise
from mtad.core.options import Count
from mtad.core.prefix import Prefix
from mtad.core.tree import TokenTree
from mtad.model.drafter import Drafter
from mtad.sampling.warper import Warper
from mtad.speculative.acceptance import (
    at_node,
    chain_logprobs,
    chain_path,
    endpoint,
    last_true,
    residual_weights,
    value_at,
)
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
        p, q = warp(target_logits, tree), exp_of(chain_logprobs(tree))
        log_w = self._log_weights(tree, p)
        excess = exp_of(p[:, :-1] + log_w[:, :-1, None]) - q
        left = excess.clamp(min=0).sum(-1)
        room = left + 1 - log_w[:, :-1].exp()
        partial = torch.where(room > 0, left / room.clamp(min=1e-30), 1.0)
        alive = torch.nn.functional.pad(tree.alive[:, 1:], (0, 1))
        h = torch.where(alive, torch.nn.functional.pad(partial, (0, 1)), log_w.exp())[:, 1:]
        passes = (noise.uniform("accept", tree.depth) <= h) & alive[:, :-1]
        return self._verdict(tree, p, q, log_w, alive, last_true(passes), noise)

    def _log_weights(self, tree: TokenTree, p: Tensor) -> Float[Tensor, "rows nodes"]:
        """The running log w_i, from w_0 = 1 on."""
        log_ratio = tree.token_values(p) - tree.node_logprobs
        weights = [torch.zeros_like(log_ratio[:, 0])]
        for i in range(1, tree.num_nodes):
            weights.append((weights[-1] + log_ratio[:, i]).clamp(max=0))
        return torch.stack(weights, dim=1)

    def _verdict(
        self,
        tree: TokenTree,
        p: Tensor,
        q: Tensor,
        log_w: Tensor,
        alive: Tensor,
        length: Tensor,
        noise: Noise,
    ) -> Verdict:
        bonus = at_node(p, length)
        scaled = bonus + value_at(log_w, length)[:, None]
        taken = at_node(q, length.clamp(max=q.shape[1] - 1))
        logprobs = torch.where(
            value_at(alive, length)[:, None], residual_weights(scaled, taken), bonus
        )
        return Verdict(chain_path(tree), length, endpoint(logprobs, noise))

    def num_nodes(self, vocab: int, max_new_tokens: int) -> int:
        """The chain and the root."""
        return self.num_draft_tokens + 1

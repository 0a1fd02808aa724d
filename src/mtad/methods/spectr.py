"""SpecTr: K independent draft chains, tested together position by position (K-SEQ).

With p = target, q = draft and S the chains that agree with the accepted path, k = |S|, at each
position: ρ is the root of 1 - (1 - β(ρ))^k = ρ β(ρ) with β(ρ) = Σ_x min(q(x), p(x)/ρ), and

    for each chain of S in turn:  accept its token x with probability min(1, p(x)/(ρ q(x)))
    first acceptance: commit x, keep the chains of S that have it here, go on
    none:             endpoint ~ norm(max(p - ρ q, 0)), stop
    all positions accepted: endpoint ~ p

Lossless: at ρ the accepted mass of every token is at most p. Equal draft tokens are legitimate
and are tested one by one.
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
from mtad.speculative.acceptance import at_node, endpoint, residual_weights, value_at
from mtad.speculative.drafting import sampled_chains
from mtad.speculative.facts import Reads
from mtad.speculative.method import Method, Verdict

BISECTIONS = 40
"""Halvings of the interval of ρ: from k - 1 down to float rounding."""


@dataclass(frozen=True)
class SpecTr(Method):
    """Independent chains with the k-sequential selection of an optimal-transport relaxation.

    Attributes:
        num_drafts: K, chains per iteration.
        num_draft_tokens: tokens per chain.
    """

    num_drafts: Count = 2
    num_draft_tokens: Count = 4

    name: ClassVar[str] = "spectr"
    lossless: ClassVar[bool] = True
    citation: ClassVar[str] = "Sun et al. 2023, arXiv 2310.15141"
    drafting: ClassVar[tuple[str, ...]] = ("num_drafts", "num_draft_tokens")
    judges_candidates: ClassVar[bool] = True
    reads: ClassVar[Reads | None] = Reads("chains", draft="distributions")

    def draft(self, lm: Drafter | None, prefix: Prefix, warp: Warper, noise: Noise) -> TokenTree:
        """K chains sampled independently from the root."""
        assert lm is not None
        return sampled_chains(lm, prefix, warp, noise, self.num_drafts, self.num_draft_tokens)

    def verify(
        self,
        tree: TokenTree,
        target_logits: Float[Tensor, "rows nodes vocab"],
        warp: Warper,
        noise: Noise,
    ) -> Verdict:
        """A walk down the chains that agree with what was accepted."""
        logprobs = warp(target_logits, tree)
        node = torch.zeros_like(tree.previous)
        active = torch.ones_like(tree.tokens[:, 1 : 1 + tree.widths[1]], dtype=torch.bool)
        going, path, end = active[:, 0], [], logprobs[:, 0]
        for depth, level in enumerate(tree.levels[1:]):
            p, first = at_node(logprobs, node), active.int().argmax(1)
            q = at_node(tree.draft_logprobs[depth], first if depth else torch.zeros_like(first))
            active = active & tree.alive[:, level]
            rho = division_factor(p, q, active.sum(1))
            hits = self._hits(tree, level, p, q, rho, active, noise)
            drafted, hit = active.any(1), hits.any(1) & going
            rejected = residual_weights(p, rho[:, None] * exp_of(q))
            end = torch.where(going[:, None], torch.where(drafted[:, None], rejected, p), end)
            chain = hits.int().argmax(1)
            node = torch.where(hit, level.start + chain, node)
            tokens = tree.tokens[:, level]
            active = active & hit[:, None] & (tokens == value_at(tokens, chain)[:, None])
            going = hit
            path.append((node, hit))
        end = torch.where(going[:, None], at_node(logprobs, node), end)
        accepted = torch.stack([hit for _, hit in path], dim=1).sum(1)
        return Verdict(torch.stack([n for n, _ in path], dim=1), accepted, endpoint(end, noise))

    def _hits(
        self,
        tree: TokenTree,
        level: slice,
        p: Tensor,
        q: Tensor,
        rho: Tensor,
        active: Tensor,
        noise: Noise,
    ) -> Tensor:
        """Which active chains pass their own test at this level."""
        tokens = tree.tokens[:, level]
        log_ratio = p.gather(1, tokens) - q.gather(1, tokens) - rho.log()[:, None]
        u = noise.uniform(f"accept {level.start}", level.stop - level.start)
        return active & (u.log() <= log_ratio)

    def num_nodes(self, vocab: int, max_new_tokens: int) -> int:
        """K chains and the root."""
        return self.num_drafts * self.num_draft_tokens + 1


def division_factor(
    p: Float[Tensor, "rows vocab"], q: Float[Tensor, "rows vocab"], k: Tensor
) -> Float[Tensor, " rows"]:
    """The smallest valid ρ in [1, k] for log-probabilities p and q, by bisection from above."""
    p, q = exp_of(p).double(), exp_of(q).double()
    k = k.clamp(min=1).double()
    low, high = torch.ones_like(k), k
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        beta = torch.minimum(q, p / middle[:, None]).sum(1)
        valid = 1 - (1 - beta) ** k <= middle * beta
        low, high = torch.where(valid, low, middle), torch.where(valid, middle, high)
    return high.float()

"""Greedy multi-path block verification: of K draft chains the one that the target favours most.

K chains are drawn independently. Of two that differ, at the first position where they do, the one
with the larger (p(x)/q(x), x) is above the other, p = target and q = draft; the highest chain d is
verified as a block (block verification) with its own law q^K in place of q. With A_0 = 0, m_0 = 1,
and "below v" in the order of (p/q, token id) at position i:

    u(v) = A_(i-1) + m_(i-1) Σ_{w below v} q_i(w)
    q^K_i(v) ∝ (u(v) + m_(i-1) q_i(v))^K - u(v)^K
    A_i = u(d_i);  m_i = m_(i-1) q_i(d_i)

Lossless: q^K is the law of the highest chain, equal chains included, and block verification is
exact for any law of the draft. More chains can be worse, for choosing overshoots the target: with
`adaptive_paths` the first k chains are used, k <= K with the largest Σ_v min(p_1(v), q^k_1(v)),
which is a function of the context alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mtad.core.logs import exp_of
from mtad.core.noise import Noise, first_argmax
from mtad.core.options import Count
from mtad.core.prefix import Prefix
from mtad.core.tree import TokenTree
from mtad.model.drafter import Drafter
from mtad.sampling.truncation import NEVER
from mtad.sampling.warper import Warper
from mtad.speculative.acceptance import at_node, value_at
from mtad.speculative.blocks import accept_block
from mtad.speculative.drafting import sampled_chains
from mtad.speculative.facts import Reads
from mtad.speculative.method import Method, Verdict

TINY = 1e-300
"""Stands for a mass of 0 where one is divided by."""


@dataclass(frozen=True)
class GBV(Method):
    """Independent chains, the one that the target favours verified as a block.

    Attributes:
        num_paths: K, chains per iteration.
        num_draft_tokens: γ, tokens per chain.
        adaptive_paths: whether fewer chains are used where more would be accepted less.
    """

    num_paths: Count = 2
    num_draft_tokens: Count = 4
    adaptive_paths: bool = True

    name: ClassVar[str] = "gbv"
    lossless: ClassVar[bool] = True
    citation: ClassVar[str] = "Thomas and Pal 2026, arXiv 2602.16961"
    drafting: ClassVar[tuple[str, ...]] = ("num_paths", "num_draft_tokens")
    judges_candidates: ClassVar[bool] = True
    reads: ClassVar[Reads | None] = Reads("chains", draft="distributions")

    def draft(self, lm: Drafter | None, prefix: Prefix, warp: Warper, noise: Noise) -> TokenTree:
        """K chains sampled independently from the root."""
        assert lm is not None
        return sampled_chains(lm, prefix, warp, noise, self.num_paths, self.num_draft_tokens)

    def verify(
        self,
        tree: TokenTree,
        target_logits: Float[Tensor, "rows nodes vocab"],
        warp: Warper,
        noise: Noise,
    ) -> Verdict:
        """The highest chain as far as block verification accepts it, and the token after that."""
        logprobs = warp(target_logits, tree)
        nodes, q = self._chosen(tree, logprobs)
        line = torch.nn.functional.pad(nodes, (1, 0)).unbind(1)
        p = torch.stack([at_node(logprobs, node) for node in line], dim=1)
        tokens, alive = tree.tokens.gather(1, nodes)[:, :, None], tree.alive.gather(1, nodes)
        log_ratio = (p[:, :-1].gather(2, tokens) - q.gather(2, tokens).log().float())[:, :, 0]
        block = accept_block(p, q.float(), torch.where(alive, log_ratio, 0.0), alive, noise)
        return Verdict(nodes, *block)

    def _chosen(
        self, tree: TokenTree, logprobs: Float[Tensor, "rows nodes vocab"]
    ) -> tuple[Int[Tensor, "rows depth"], Float[Tensor, "rows depth vocab"]]:
        """The nodes of the highest chain, and the probabilities q^k along it."""
        place = torch.zeros_like(tree.previous)
        node, path, laws = place, list[Tensor](), list[Tensor]()
        count = torch.full_like(place, tree.widths[1])
        active = torch.ones_like(tree.alive[:, tree.levels[1]])
        below = torch.zeros_like(node, dtype=torch.float64)
        mass = torch.ones_like(below)
        for depth, level in enumerate(tree.levels[1:]):
            p, q = at_node(logprobs, node), at_node(tree.draft_logprobs[depth], place)
            ratio, own = torch.where(q > NEVER, p - q, NEVER), mass[:, None] * exp_of(q).double()
            under = below[:, None] + _mass_below(ratio, own)
            each = laws_of_highest(under, own, tree.widths[1])
            if depth == 0 and self.adaptive_paths:
                count = _num_used(p, each)
                active = torch.arange(each.shape[1], device=p.device) < count[:, None]
            active = _highest(active, tree.tokens[:, level], ratio)
            place = active.int().argmax(1)
            node = level.start + place
            token = value_at(tree.tokens, node)
            below, mass = value_at(under, token), value_at(own, token)
            scale = (below + mass).clamp(min=TINY)  # q^k is the same for multiples of both
            below, mass = below / scale, mass / scale
            path, laws = [*path, node], [*laws, at_node(each, count - 1)]
        return torch.stack(path, dim=1), torch.stack(laws, dim=1)

    def num_nodes(self, vocab: int, max_new_tokens: int) -> int:
        """K chains and the root."""
        return self.num_paths * self.num_draft_tokens + 1


def laws_of_highest(
    under: Float[Tensor, "rows vocab"], own: Float[Tensor, "rows vocab"], most: int
) -> Float[Tensor, "rows paths vocab"]:
    """The probabilities q^k of a position's tokens, for k = 1 … most chains.

    Args:
        under: u, the mass of the chains below those that have a token here.
        own: the mass of those that have it.
        most: K.
    """
    total, power, weights = torch.ones_like(own), torch.ones_like(own), []
    for _ in range(most):
        weights.append(own * total)
        power = power * (under + own)
        total = total * under + power  # Σ_j (u + m q)^j u^(k-1-j), a difference of k-th powers
    laws = torch.stack(weights, dim=1)
    return laws / laws.sum(2, keepdim=True).clamp(min=TINY)


def _num_used(
    p: Float[Tensor, "rows vocab"], laws: Float[Tensor, "rows paths vocab"]
) -> Int[Tensor, " rows"]:
    """How many chains are used, by the laws of the first position: the fewest of equals."""
    return 1 + first_argmax(torch.minimum(exp_of(p)[:, None], laws).sum(2))


def _mass_below(
    ratio: Float[Tensor, "rows vocab"], own: Float[Tensor, "rows vocab"]
) -> Float[Tensor, "rows vocab"]:
    """The mass of all tokens below each one in the order of (ratio, token id)."""
    order = ratio.argsort(dim=1, stable=True)
    sums = own.gather(1, order).cumsum(1)
    return torch.zeros_like(own).scatter(1, order, torch.nn.functional.pad(sums, (1, 0))[:, :-1])


def _highest(
    active: Bool[Tensor, "rows paths"],
    tokens: Int[Tensor, "rows paths"],
    ratio: Float[Tensor, "rows vocab"],
) -> Bool[Tensor, "rows paths"]:
    """The active chains that have the highest of their tokens."""
    values = ratio.gather(1, tokens)
    best = values.masked_fill(~active, NEVER).amax(1, keepdim=True)
    active = active & (values == best)
    return active & (tokens == tokens.masked_fill(~active, -1).amax(1, keepdim=True))

"""Cactus: speculative sampling in which the drafted token's own probability is raised first.

With p = target, q = draft and n the drafted token, the acceptance target h raises n as far as a
divergence of δ nats from p allows, and takes from all other tokens in proportion:

    h_n = min(1, p_n + sqrt(2 δ p_n (1 - p_n)))        step "quadratic", the paper's
    h_n = max { h : KL(Bernoulli(h), Bernoulli(p_n)) <= δ }        step "exact"
    h_v = p_v (1 - h_n) / (1 - p_n)  for v != n

    accept n  iff  log U <= log h_n - log q_n;  stop at the first rejection
    after a rejection:        x ~ norm(max(h - q, 0))
    after γ acceptances:      x ~ p_(γ+1)

Lossy for δ > 0, and the law of the token is not within δ of p: only h is. What holds is that no
token x becomes more likely than max(p_x, h_x), h_x being what it would be raised to if it were
drafted. At temperature 0, and with δ = 0, it is speculative sampling.

The receipt has the sum over tokens of Σ_x max(min(q_x, h_x) - p_x, 0), which is how far a drafted
token's law is from p in total variation. Its mean bounds the total variation between whole texts
and those of the target.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, TypeAlias

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from mtad.core.logs import exp_of
from mtad.core.noise import Noise
from mtad.core.options import Count, Finite
from mtad.core.prefix import Prefix
from mtad.core.tree import TokenTree
from mtad.model.drafter import Drafter
from mtad.sampling.truncation import NEVER
from mtad.sampling.warper import Warper
from mtad.speculative.acceptance import (
    at_node,
    chain_logprobs,
    chain_path,
    endpoint,
    prefix_length,
    residual,
    spent_until,
    value_at,
)
from mtad.speculative.drafting import sampled_tree
from mtad.speculative.facts import Dial, Reads
from mtad.speculative.method import Method, Verdict

Logs: TypeAlias = Float[Tensor, "rows depth vocab"]

STEPS = 8
"""Newton's, from above; float64 is exact then."""


@dataclass(frozen=True)
class Cactus(Method):
    """Constrained acceptance of Hao and Mou.

    Attributes:
        num_draft_tokens: γ, draft tokens per iteration.
        delta: δ in nats, how far the acceptance target of a drafted token may be from the target's
            law; 0 is speculative sampling.
        step: how it is raised: "quadratic" as in the paper, to second order; "exact" to δ.
    """

    num_draft_tokens: Count = 4
    delta: Annotated[Finite, Ge(0)] = 0.1
    step: Literal["quadratic", "exact"] = "quadratic"

    name: ClassVar[str] = "cactus"
    lossless: ClassVar[bool] = False
    citation: ClassVar[str] = "Hao and Mou, ICLR 2026, arXiv 2604.04987"
    drafting: ClassVar[tuple[str, ...]] = ("num_draft_tokens",)
    dial: ClassVar[Dial | None] = Dial("delta", (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0))
    judges_candidates: ClassVar[bool] = True
    reads: ClassVar[Reads | None] = Reads("chain", draft="distributions")
    entries: ClassVar[tuple[str, ...]] = ("total_variation",)

    @property
    def is_lossless(self) -> bool:
        """Only where nothing is raised."""
        return self.delta == 0

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
        """The longest prefix of accepted tokens, then one of the residual of h, or of p."""
        p, q, alive = warp(target_logits, tree), chain_logprobs(tree), tree.alive[:, 1:]
        log_p = tree.token_values(p)[:, 1:].double()
        log_h = self._raised(log_p)
        log_ratio = log_h.to(p) - tree.node_logprobs[:, 1:]
        length = prefix_length(alive & (noise.uniform("accept", tree.depth).log() <= log_ratio))
        end, place = at_node(p, length), length.clamp(max=tree.depth - 1)
        h = _law_of(end, *(value_at(t, place) for t in (tree.tokens[:, 1:], log_p, log_h)))
        drafted = value_at(pad(alive, (0, 1)), length)
        law = torch.where(drafted[:, None], residual(h, at_node(q, place)), end)
        spent = spent_until(pad(self._bias(p[:, :-1], q) * alive, (0, 1)), length)
        return Verdict(chain_path(tree), length, endpoint(law, noise), warp.ledger + spent)

    def _raised(self, log_p: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Log h_n of tokens of these log-probabilities."""
        if self.delta == 0:
            return log_p
        p = log_p.exp()
        if self.step == "quadratic":
            return (p + (2 * self.delta * p * (1 - p).clamp(min=0)).sqrt()).clamp(max=1).log()
        h = (p + (self.delta / 2) ** 0.5).clamp(max=1 - 1e-7)  # at least δ nats from p
        for _ in range(STEPS):
            odds, others = h.log() - log_p, ((1 - h) / (1 - p)).log()
            excess = (h * odds + (1 - h) * others - self.delta).clamp(min=0)
            h = (h - excess / (odds - others).clamp(min=1e-9)).maximum(p)
        log_h = torch.where(log_p > NEVER, h.log(), NEVER)
        return torch.where(-log_p <= self.delta, 0.0, log_h)

    def _bias(self, p: Logs, q: Logs) -> Float[Tensor, "rows depth"]:
        """The total variation between the law of each drafted token and p."""
        kept = torch.minimum(exp_of(q), self._raised(p).exp())
        return (kept - exp_of(p)).clamp(min=0).sum(-1)

    def num_nodes(self, vocab: int, max_new_tokens: int) -> int:
        """The chain and the root."""
        return self.num_draft_tokens + 1


def _law_of(
    p: Float[Tensor, "rows vocab"],
    token: Tensor,
    log_p: Float[Tensor, " rows"],
    log_h: Float[Tensor, " rows"],
) -> Float[Tensor, "rows vocab"]:
    """Log h of a drafted token, given its log-probability and what that is raised to."""
    others = 1 - log_p.exp()
    share = torch.where(others > 0, (1 - log_h.exp()) / others, 0.0)
    return (p + share.log()[:, None]).to(p.dtype).scatter(1, token[:, None], log_h[:, None].to(p))

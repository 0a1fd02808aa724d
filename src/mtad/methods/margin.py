"""Margin: speculative sampling that also keeps a draft token which the target ranks almost first.

With p = target, q = draft, U_j uniform, y* the target's most likely token, and at position j of a
sampled chain gap_j = log p_j(y*) - log p_j(d_j):

    accept d_j  iff  log U_j <= log p_j(d_j) - log q_j(d_j)                         the exact coin
                or   gap_j < M,  rank of d_j in p_j <= k,  regret < R               near, d_j != y*
    stop at the first rejection; what follows is drawn as in speculative sampling

regret is the sum of the gaps of all tokens of the text that were kept without the coin, this one
included. At temperature 0 the coin says d_j = y*, gaps and ranks are those of the raw p, and
regret is what the text gives away against the target's own choices: Σ max_v log p(v) - log p(x)
over its tokens, each in its own context, never reaches R. An EOS is never near. Lossy; M = 0, k = 1
or R = 0 is speculative sampling, every comparison being strict.

The receipt also has the sum over drafted tokens of Σ_x max(q_x - p_x, 0) over those x that would
have been kept as near, which is how far the token's law is from p in total variation. Its mean
bounds the total variation between whole texts and those of the target.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pad

from mtad.core.logs import exp_of
from mtad.core.noise import Noise
from mtad.core.options import Count
from mtad.core.prefix import Prefix
from mtad.core.tree import TokenTree
from mtad.model.drafter import Drafter
from mtad.sampling.warper import Warper
from mtad.speculative.acceptance import (
    accept_chain,
    chain_logprobs,
    passes_coin,
    spent_until,
)
from mtad.speculative.drafting import sampled_tree
from mtad.speculative.facts import Dial, Reads
from mtad.speculative.method import Method, Verdict


@dataclass(frozen=True)
class Margin(Method):
    """Chain drafts whose near-ties with the target's best token are kept, on a budget.

    Attributes:
        num_draft_tokens: γ, draft tokens per iteration.
        max_gap: M in nats, what a token may have less than the most likely one; 0 keeps none.
        max_rank: k, the last rank that is kept; 1 keeps none.
        regret_budget: R in nats, what all tokens of a text that are kept so may cost together.
    """

    num_draft_tokens: Count = 4
    max_gap: Annotated[float, Ge(0)] = 0.5
    max_rank: Count = 2
    regret_budget: Annotated[float, Ge(0)] = math.inf

    name: ClassVar[str] = "margin"
    lossless: ClassVar[bool] = False
    citation: ClassVar[str] = "after MARS, arXiv 2601.15498; the budget is mtad's"
    drafting: ClassVar[tuple[str, ...]] = ("num_draft_tokens",)
    dial: ClassVar[Dial | None] = Dial("max_gap", (0.1, 0.3, 0.5, 1.0, 2.0, 4.0))
    reads: ClassVar[Reads | None] = Reads("chain", draft="distributions")
    entries: ClassVar[tuple[str, ...]] = ("regret", "total_variation")

    @property
    def is_lossless(self) -> bool:
        """Only where nothing is kept but by the coin."""
        return self.max_gap == 0 or self.max_rank == 1 or self.regret_budget == 0

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
        """The longest prefix of accepted tokens, then the residual or the bonus token."""
        p, q = warp(target_logits, tree), chain_logprobs(tree)
        won = passes_coin(tree, p, noise)
        judged = warp.judging_logprobs(p, target_logits, tree)
        gap, is_near = self._near(judged, tree, warp)
        cost = gap.double().masked_fill(won | ~is_near, 0.0)
        regret = warp.ledger[:, :1] + pad(cost.cumsum(1), (1, 0))
        kept = tree.alive[:, 1:] & is_near & (regret[:, 1:] < self.regret_budget)
        verdict = accept_chain(tree, p, won | kept, noise)
        left = self.regret_budget - regret[:, :-1]
        more = (exp_of(q) - exp_of(p[:, :-1])).clamp(min=0)
        bias = (more * self._may_keep(judged[:, :-1], left, warp)).sum(-1) * tree.alive[:, 1:]
        varied = warp.ledger[:, 1:] + spent_until(pad(bias, (0, 1)), verdict.num_accepted)
        spent = torch.cat([regret.gather(1, verdict.num_accepted[:, None]), varied], dim=1)
        return replace(verdict, ledger=spent)

    def _near(
        self, law: Float[Tensor, "rows nodes vocab"], tree: TokenTree, warp: Warper
    ) -> tuple[Float[Tensor, "rows depth"], Bool[Tensor, "rows depth"]]:
        """How many nats each draft token is below the best one, and whether it may be kept."""
        assert warp.prefix is not None
        tokens, ids = tree.tokens[:, 1:], torch.arange(law.shape[2], device=law.device)
        value, law = tree.token_values(law)[:, 1:, None], law[:, :-1]
        ahead = (law > value) | ((law == value) & (ids < tokens[:, :, None]))
        place, gap = ahead.sum(2), law.amax(2) - value[:, :, 0]
        is_close = (gap < self.max_gap) & (place > 0) & (place < self.max_rank)
        return gap, is_close & ~warp.prefix.is_eos(tokens)

    def _may_keep(
        self,
        law: Float[Tensor, "rows depth vocab"],
        left: Float[Tensor, "rows depth"],
        warp: Warper,
    ) -> Bool[Tensor, "rows depth vocab"]:
        """Which tokens would be kept without the coin, of equal ones all.

        Args:
            law: that gaps and ranks are of.
            left: nats of the budget.
            warp: of the texts.
        """
        assert warp.prefix is not None
        best, top = law.argmax(-1, keepdim=True), law.topk(min(self.max_rank, law.shape[2])).values
        gap = top[..., :1] - law
        near = (gap < self.max_gap) & (law >= top[..., -1:]) & (gap < left[..., None])
        ends = warp.prefix.eos[:, None].expand(-1, law.shape[1], -1)
        never = torch.cat([best, torch.where(ends >= 0, ends, best)], dim=2)
        return near.scatter(2, never, torch.zeros_like(never, dtype=torch.bool))

    def num_nodes(self, vocab: int, max_new_tokens: int) -> int:
        """The chain and the root."""
        return self.num_draft_tokens + 1

"""Typical acceptance: a draft token is kept if the target finds it typical enough.

With p = target at the temperature in force but without top-k and top-p, H its entropy in nats and
c the context, a draft token x is accepted iff

    p(x|c) > min(ε, δ · exp(-H(p(.|c))))

and the chain ends at the first token that fails; the endpoint token is drawn from the
target. ε (`posterior_threshold`) caps what a confident context may ask for, δ (`posterior_alpha`)
lowers the bar in flat ones. The draft's probabilities play no part. Lossy; exact at temperature 0.

The receipt has the largest 1 - p/q of the draft tokens that were accepted: the probability with
which speculative sampling would have rejected that token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Le
from jaxtyping import Float
from torch import Tensor

from mtad.core.noise import Noise
from mtad.core.options import Count
from mtad.core.prefix import Prefix
from mtad.core.tree import TokenTree
from mtad.model.drafter import Drafter
from mtad.sampling.warper import Warper
from mtad.speculative.acceptance import (
    at_node,
    chain_path,
    endpoint,
    largest_overshoot,
    prefix_length,
)
from mtad.speculative.drafting import sampled_tree
from mtad.speculative.facts import Dial, Reads
from mtad.speculative.method import Method, Verdict


@dataclass(frozen=True)
class TypicalAcceptance(Method):
    """Chain drafts accepted by the entropy-dependent threshold of Medusa.

    Attributes:
        num_draft_tokens: draft tokens per iteration.
        posterior_threshold: ε.
        posterior_alpha: δ.
    """

    num_draft_tokens: Count = 4
    posterior_threshold: Annotated[float, Ge(0), Le(1)] = 0.09
    posterior_alpha: Annotated[float, Ge(0), Le(1)] = 0.3

    name: ClassVar[str] = "typical_acceptance"
    lossless: ClassVar[bool] = False
    citation: ClassVar[str] = "Cai et al. 2024 (Medusa), arXiv 2401.10774"
    drafting: ClassVar[tuple[str, ...]] = ("num_draft_tokens",)
    dial: ClassVar[Dial | None] = Dial(
        "posterior_threshold", (0.0, 0.01, 0.03, 0.09, 0.2, 0.4, 0.7, 1.0)
    )
    entries: ClassVar[tuple[str, ...]] = ("largest_overshoot",)
    reads: ClassVar[Reads | None] = Reads("chain")

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
        """The longest prefix of typical tokens, then a token from the target."""
        tempered = warp.tempered(target_logits, tree)
        bar = self._bar(tempered).gather(1, tree.parents.clamp(min=0))
        typical = tree.token_values(tempered).exp() > bar
        length = prefix_length((typical & tree.alive)[:, 1:])
        p, path = warp(target_logits, tree), chain_path(tree)
        kept = largest_overshoot(warp.ledger, tree, tree.token_values(p), path, length)
        return Verdict(path, length, endpoint(at_node(p, length), noise), kept)

    def _bar(self, logprobs: Float[Tensor, "rows nodes vocab"]) -> Float[Tensor, "rows nodes"]:
        """min(ε, δ exp(-H)), with 0 log 0 = 0."""
        negative_entropy: Tensor = torch.special.xlogy(logprobs.exp(), logprobs.exp()).sum(-1)
        bar = self.posterior_alpha * negative_entropy.exp()
        return bar.clamp(max=self.posterior_threshold)

    def num_nodes(self, vocab: int, max_new_tokens: int) -> int:
        """The chain and the root."""
        return self.num_draft_tokens + 1

"""FLy, loosely verified drafts: a mismatch is kept where the target is unsure and agrees again.

With p = target, q = draft, and p̃ the target's law before temperature and truncation:

    native_j:    log U_j <= log p_j(d_j) - log q_j(d_j), the test of speculative sampling
    H_j:         -Σ p̃_j(v) log p̃_j(v) over the three most likely tokens v
    deferred_j:  not native_j, H_j >= θ, native_(j+1) … native_(j+n), and d_j is possible:
                 p_j(d_j) > 0 and log max p_j - log p_j(d_j) < max_gap
    η:           the number of leading tokens that are native or deferred
    endpoint:    x ~ norm(max(p - q, 0)) after a rejection, x ~ p after γ acceptances

The n tokens of the window must be drafted in the same iteration, before the end of text and budget.
At temperature 0, whose p is one-hot, p̃ says which tokens are possible. Lossy, without a bound on
what a text loses, and with one for a token only by `max_gap`.

The receipt has the largest 1 - p/q of the draft tokens that were accepted: the probability with
which speculative sampling would have rejected that token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from jaxtyping import Bool, Float
from torch import Tensor

from mtad.core.noise import Noise
from mtad.core.options import Count
from mtad.core.prefix import Prefix
from mtad.core.tree import TokenTree
from mtad.model.drafter import Drafter
from mtad.sampling.warper import Warper
from mtad.speculative.acceptance import accept_chain, largest_overshoot, passes_coin
from mtad.speculative.drafting import sampled_tree
from mtad.speculative.facts import Dial, Reads
from mtad.speculative.method import Method, Verdict

LIKELIEST = 3
"""Tokens whose entropy says how sure the target is."""
LARGEST = 1.1
"""No entropy of three tokens is larger than log 3 = 1.0986."""


@dataclass(frozen=True)
class FLy(Method):
    """Loose verification of Li et al.

    Attributes:
        num_draft_tokens: γ, draft tokens per iteration; 8 and more leave room for the window.
        window: n, tokens after a mismatch that must pass the test of speculative sampling.
        entropy_threshold: θ in nats, least entropy of the target where a mismatch is kept.
        max_gap: how much less likely than the target's best token a kept mismatch may be, in nats
            of log-probability; must be less. Infinity as in the paper.
    """

    num_draft_tokens: Count = 8
    window: Count = 4
    entropy_threshold: Annotated[float, Ge(0)] = 0.3
    max_gap: Annotated[float, Ge(0)] = math.inf

    name: ClassVar[str] = "fly"
    lossless: ClassVar[bool] = False
    citation: ClassVar[str] = "Li et al., ICLR 2026, arXiv 2511.22972; max_gap is ours"
    drafting: ClassVar[tuple[str, ...]] = ("num_draft_tokens",)
    dial: ClassVar[Dial | None] = Dial("entropy_threshold", (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9))
    entries: ClassVar[tuple[str, ...]] = ("largest_overshoot",)
    reads: ClassVar[Reads | None] = Reads("chain", draft="distributions")

    @property
    def is_lossless(self) -> bool:
        """Only where no mismatch can be kept."""
        is_full = self.window >= self.num_draft_tokens
        return is_full or self.entropy_threshold >= LARGEST or self.max_gap == 0

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
        """The longest prefix of native or deferred tokens, then the residual or the bonus token."""
        p = warp(target_logits, tree)
        native = passes_coin(tree, p, noise)
        judged = warp.judging_logprobs(p, target_logits, tree)
        gap = judged[:, :-1].amax(-1) - tree.token_values(judged)[:, 1:]
        is_unsure = _entropy(warp.raw(target_logits, tree))[:, :-1] >= self.entropy_threshold
        deferred = tree.alive[:, 1:] & (gap < self.max_gap) & is_unsure & self._agrees_after(native)
        verdict = accept_chain(tree, p, native | deferred, noise)
        path, length = verdict.path, verdict.num_accepted
        kept = largest_overshoot(warp.ledger, tree, tree.token_values(p), path, length)
        return replace(verdict, ledger=kept)

    def _agrees_after(self, native: Bool[Tensor, "rows depth"]) -> Bool[Tensor, "rows depth"]:
        """Which tokens have a full window of native ones after them."""
        n, depth = self.window, native.shape[1]
        if n >= depth:
            return torch.zeros_like(native)
        sums = native.int().cumsum(1)
        full = sums[:, n:] - sums[:, :-n] == n
        return torch.nn.functional.pad(full, (0, n))

    def num_nodes(self, vocab: int, max_new_tokens: int) -> int:
        """The chain and the root."""
        return self.num_draft_tokens + 1


def _entropy(logprobs: Float[Tensor, "rows nodes vocab"]) -> Float[Tensor, "rows nodes"]:
    """The part of the entropy that the most likely tokens have, with 0 log 0 = 0."""
    top = logprobs.topk(min(LIKELIEST, logprobs.shape[-1]), dim=-1).values.exp()
    entropy: Tensor = -torch.special.xlogy(top, top).sum(-1)
    return entropy

"""MTAD, multi-token assisted decoding: beam-sampled drafts, accepted by their joint likelihood.

The draft keeps W beams for γ steps and proposes the one of largest joint probability, d_1 … d_γ.
With p = target, q = draft (the exact chain probability of the draft, warped like p):

    η = max { i : p(d_1…d_i) / q(d_1…d_i) >= τ },  0 if there is none
    endpoint ~ p(. | d_1…d_η)

It is the longest passing prefix, not the first failure: a weak token is kept if what follows makes
up for it. The test is deterministic and the endpoint has no residual. Lossy for τ < 1: it favours
likely blocks. Whenever η >= 1, PPL_p(block) <= τ^(-1/η) · PPL_q(block).

The receipt has the largest 1 - p/q of the draft tokens that were accepted: the probability with
which speculative sampling would have rejected that token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor

from mtad.core.noise import Noise
from mtad.core.options import Count
from mtad.core.prefix import Prefix
from mtad.core.tree import TokenTree
from mtad.model.drafter import Drafter
from mtad.sampling.warper import Warper
from mtad.speculative.acceptance import (
    chain_path,
    endpoint_after,
    joint_logprobs,
    largest_overshoot,
    last_true,
    prefix_length,
)
from mtad.speculative.beams import RatioOn, beam_tree, best_path
from mtad.speculative.facts import SHARES, Dial, Reads
from mtad.speculative.method import Method, Verdict


@dataclass(frozen=True)
class MTAD(Method):
    """Algorithm 1 of Qin et al.

    Attributes:
        num_draft_tokens: γ, length of the draft.
        beam_width: W, beams of the draft.
        accept_threshold: τ >= 0; 0 accepts whatever the target can say, 1 what it likes at
            least as much as the draft does, infinity nothing.
        ratio_on: what the ratio is formed of: "warped" probabilities, or "raw" ones without
            temperature and truncation.
        endpoint: "sample" draws the token after the block, "greedy" takes the most likely one.
        beam: "sample" draws beams without replacement, "sample_with_replacement" as the authors'
            code does (equal beams are merged), "search" keeps the best.
        prefix: "longest" is η above; "first_failure" ends the block before the first prefix that
            fails, the ablation that shows what looking further adds.
    """

    num_draft_tokens: Count = 4
    beam_width: Count = 4
    accept_threshold: Annotated[float, Ge(0)] = 0.5
    ratio_on: RatioOn = "warped"
    endpoint: Literal["sample", "greedy"] = "sample"
    beam: Literal["sample", "sample_with_replacement", "search"] = "sample"
    prefix: Literal["longest", "first_failure"] = "longest"

    name: ClassVar[str] = "mtad"
    lossless: ClassVar[bool] = False
    citation: ClassVar[str] = "Qin et al., ICLR 2025, arXiv 2407.09722, Algorithm 1"
    drafting: ClassVar[tuple[str, ...]] = ("num_draft_tokens", "beam_width", "beam", "ratio_on")
    dial: ClassVar[Dial | None] = Dial("accept_threshold", SHARES)
    judges_candidates: ClassVar[bool] = True
    entries: ClassVar[tuple[str, ...]] = ("largest_overshoot",)
    reads: ClassVar[Reads | None] = Reads("beam", draft="values", target="values")

    def draft(self, lm: Drafter | None, prefix: Prefix, warp: Warper, noise: Noise) -> TokenTree:
        """The beam of largest joint probability."""
        assert lm is not None
        tree = beam_tree(self, lm, prefix, warp, noise)
        return tree.select(best_path(tree))

    def verify(
        self,
        tree: TokenTree,
        target_logits: Float[Tensor, "rows nodes vocab"],
        warp: Warper,
        noise: Noise,
    ) -> Verdict:
        """The longest prefix whose joint ratio reaches τ, then a token of the target."""
        p = warp(target_logits, tree)
        judge = warp.ratio_logprobs(self.ratio_on, p, target_logits, tree)
        joint_p = joint_logprobs(tree, judge)
        log_ratio = joint_p - tree.joint_logprobs
        bar = math.log(self.accept_threshold) if self.accept_threshold > 0 else -math.inf
        passes = tree.alive & (joint_p > -math.inf) & (log_ratio >= bar)
        accepted = last_true if self.prefix == "longest" else prefix_length
        length = accepted(passes[:, 1:])
        token, path = endpoint_after(p, length, self.endpoint, noise), chain_path(tree)
        ratios = tree.token_values(judge)
        kept = largest_overshoot(warp.ledger, tree, ratios, path, length)
        return Verdict(path, length, token, kept)

    def num_nodes(self, vocab: int, max_new_tokens: int) -> int:
        """All beams of all levels, and the root."""
        return self.num_draft_tokens * self.beam_width + 1

"""MMTAD, MTAD with all beams verified: the deepest acceptable node of the beam tree wins.

All beams of all levels are scored by the target in one tree forward. With p = target, q = draft,
d* the best final beam and v a node of depth j, v passes iff

    "star":  p(v) / q(d*_1…d*_j)                        >= τ   (default)
    "own":   p(v) / q(v)                                >= τ
    "max":   p(v) / max over nodes u of depth j of q(u) >= τ

where p(v) and q(v) are the joint probabilities of the path to v. η is the largest depth with a
passing node; of those at depth η the one of largest p(v) is committed; endpoint ~ p(. | path).
With the same beams "star" never stops earlier than MTAD. Lossy, and more mode-seeking than MTAD.

The receipt has the largest 1 - p/q of the draft tokens that were accepted: the probability with
which speculative sampling would have rejected that token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
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
    endpoint_after,
    first_deepest,
    joint_logprobs,
    largest_overshoot,
    value_at,
)
from mtad.speculative.beams import RatioOn, beam_tree, best_path
from mtad.speculative.facts import SHARES, Dial, Reads
from mtad.speculative.method import Method, Verdict


@dataclass(frozen=True)
class MMTAD(Method):
    """Multi-candidate MTAD with tree verification.

    Attributes:
        num_draft_tokens: γ, depth of the tree.
        beam_width: W, nodes per level.
        accept_threshold: τ >= 0, as in MTAD.
        ratio_on: what the ratio is formed of: "warped" probabilities, or "raw" ones without
            temperature and truncation.
        endpoint: "sample" or "greedy", as in MTAD.
        beam: "sample", "sample_with_replacement" or "search", as in MTAD.
        rule: "star", "own" or "max".
    """

    num_draft_tokens: Count = 4
    beam_width: Count = 4
    accept_threshold: Annotated[float, Ge(0)] = 0.5
    ratio_on: RatioOn = "warped"
    endpoint: Literal["sample", "greedy"] = "sample"
    beam: Literal["sample", "sample_with_replacement", "search"] = "sample"
    rule: Literal["star", "own", "max"] = "star"

    name: ClassVar[str] = "mmtad"
    lossless: ClassVar[bool] = False
    citation: ClassVar[str] = "Qin et al., ICLR 2025, arXiv 2407.09722, multi-candidate variant"
    drafting: ClassVar[tuple[str, ...]] = ("num_draft_tokens", "beam_width", "beam", "ratio_on")
    dial: ClassVar[Dial | None] = Dial("accept_threshold", SHARES)
    judges_candidates: ClassVar[bool] = True
    entries: ClassVar[tuple[str, ...]] = ("largest_overshoot",)
    reads: ClassVar[Reads | None] = Reads("beams", draft="values", target="values")

    def draft(self, lm: Drafter | None, prefix: Prefix, warp: Warper, noise: Noise) -> TokenTree:
        """The tree of all beams."""
        assert lm is not None
        return beam_tree(self, lm, prefix, warp, noise)

    def verify(
        self,
        tree: TokenTree,
        target_logits: Float[Tensor, "rows nodes vocab"],
        warp: Warper,
        noise: Noise,
    ) -> Verdict:
        """The deepest passing node, then a token of the target."""
        p = warp(target_logits, tree)
        judge = warp.ratio_logprobs(self.ratio_on, p, target_logits, tree)
        joint_p = joint_logprobs(tree, judge)
        bar = math.log(self.accept_threshold) if self.accept_threshold > 0 else -math.inf
        log_ratio = joint_p - self._denominator(tree)
        passes = tree.alive & (joint_p > -math.inf) & (log_ratio >= bar)
        node, depth = first_deepest(tree, passes, joint_p)
        token, path = endpoint_after(p, node, self.endpoint, noise), tree.path_to(node)
        ratios = tree.token_values(judge)
        kept = largest_overshoot(warp.ledger, tree, ratios, path, depth)
        return Verdict(path, depth, token, kept)

    def _denominator(self, tree: TokenTree) -> Float[Tensor, "rows nodes"]:
        """The joint log-probability that each node's own is compared with."""
        joint_q = tree.joint_logprobs
        if self.rule == "own":
            return joint_q
        if self.rule == "max":
            per_level = [joint_q[:, level].amax(1) for level in tree.levels]
        else:
            star = torch.nn.functional.pad(best_path(tree), (1, 0))
            per_level = [value_at(joint_q, node) for node in star.unbind(1)]
        return torch.stack(per_level, dim=1)[:, tree.depths]

    def num_nodes(self, vocab: int, max_new_tokens: int) -> int:
        """All beams of all levels, and the root."""
        return self.num_draft_tokens * self.beam_width + 1

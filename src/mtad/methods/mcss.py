"""MCSS, multi-candidate speculative sampling: a tree of distinct candidates.

Every node of level i - 1 gets k_i children. `replacement` says how they are drawn and verified,
with p = target, q = draft:

    "without" (the paper's default): drawn one after the other without replacement; p_cur = p,
        q_cur = q; accept child x with probability min(1, p_cur(x)/q_cur(x)); otherwise
        p_cur <- norm(max(p_cur - q_cur, 0)), then q_cur(x) <- 0 and q_cur is normalised
    "with":  independent draws and q_cur = q throughout, the rule of SpecInfer
    "naive": independent draws; y ~ p; the child that equals y is accepted

If no child is accepted the endpoint is drawn from p_cur (it is y in the naive rule). At
temperature 0 "without" proposes the k most likely tokens. All three are lossless.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from mtad.core.noise import Noise
from mtad.core.prefix import Prefix
from mtad.core.tree import TokenTree
from mtad.model.drafter import Drafter
from mtad.sampling.warper import Warper
from mtad.speculative.acceptance import accept_matches, walk
from mtad.speculative.drafting import TreeShape, num_tree_nodes, sampled_tree
from mtad.speculative.facts import Reads
from mtad.speculative.method import Method, Verdict


@dataclass(frozen=True)
class MCSS(Method):
    """Token trees of several candidates per position.

    Attributes:
        k_config: children per node, level by level.
        replacement: "without", "with" or "naive".
    """

    k_config: TreeShape = (4, 2, 2)
    replacement: Literal["without", "with", "naive"] = "without"

    name: ClassVar[str] = "mcss"
    lossless: ClassVar[bool] = True
    citation: ClassVar[str] = "Yang et al. 2024, arXiv 2401.06706"
    drafting: ClassVar[tuple[str, ...]] = ("k_config",)
    judges_candidates: ClassVar[bool] = True
    reads: ClassVar[Reads | None] = Reads("any", draft="distributions")

    @property
    def needs(self) -> Reads | None:
        """The naive rule reads nothing of the draft but its tokens."""
        return Reads("any") if self.replacement == "naive" else self.reads

    def draft(self, lm: Drafter | None, prefix: Prefix, warp: Warper, noise: Noise) -> TokenTree:
        """A tree of candidates in draw order."""
        assert lm is not None
        again = self.replacement != "without"
        return sampled_tree(lm, prefix, warp, noise, self.k_config, replacement=again)

    def verify(
        self,
        tree: TokenTree,
        target_logits: Float[Tensor, "rows nodes vocab"],
        warp: Warper,
        noise: Noise,
    ) -> Verdict:
        """A walk from the root along accepted children."""
        p = warp(target_logits, tree)
        if self.replacement == "naive":
            return accept_matches(tree, p, noise)
        return walk(tree, p, noise, shrink_q=self.replacement == "without")

    def num_nodes(self, vocab: int, max_new_tokens: int) -> int:
        """The tree."""
        return num_tree_nodes(self.k_config)

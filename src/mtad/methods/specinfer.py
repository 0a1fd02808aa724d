"""SpecInfer: a tree of independent draws, verified by multi-step speculative sampling.

Every node of level i - 1 gets k_i children drawn independently from the draft. With p = target,
q = draft, from the root on, p_cur = p(. | node):

    for each child x in turn: accept with probability min(1, p_cur(x)/q(x)) and go on from it;
        otherwise p_cur <- norm(max(p_cur - q, 0))
    no child accepted: endpoint ~ p_cur

Lossless. Equal siblings are not merged: each draw must be paid for with its own residual.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from mtad.core.noise import Noise
from mtad.core.prefix import Prefix
from mtad.core.tree import TokenTree
from mtad.model.drafter import Drafter
from mtad.sampling.warper import Warper
from mtad.speculative.acceptance import walk
from mtad.speculative.drafting import TreeShape, num_tree_nodes, sampled_tree
from mtad.speculative.facts import Reads
from mtad.speculative.method import Method, Verdict


@dataclass(frozen=True)
class SpecInfer(Method):
    """Token trees with replacement and the multi-step rule.

    Attributes:
        k_config: children per node, level by level.
    """

    k_config: TreeShape = (4, 2, 2)

    name: ClassVar[str] = "specinfer"
    lossless: ClassVar[bool] = True
    citation: ClassVar[str] = "Miao et al. 2024, arXiv 2305.09781"
    drafting: ClassVar[tuple[str, ...]] = ("k_config",)
    judges_candidates: ClassVar[bool] = True
    reads: ClassVar[Reads | None] = Reads("any", draft="distributions")

    def draft(self, lm: Drafter | None, prefix: Prefix, warp: Warper, noise: Noise) -> TokenTree:
        """A tree of independent draws."""
        assert lm is not None
        return sampled_tree(lm, prefix, warp, noise, self.k_config)

    def verify(
        self,
        tree: TokenTree,
        target_logits: Float[Tensor, "rows nodes vocab"],
        warp: Warper,
        noise: Noise,
    ) -> Verdict:
        """A walk from the root along accepted children."""
        return walk(tree, warp(target_logits, tree), noise, shrink_q=False)

    def num_nodes(self, vocab: int, max_new_tokens: int) -> int:
        """The tree."""
        return num_tree_nodes(self.k_config)

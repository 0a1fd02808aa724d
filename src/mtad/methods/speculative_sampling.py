"""Speculative sampling: a sampled chain of draft tokens, each kept with probability min(1, p/q).

The draft samples d_1 … d_γ from itself; the target scores them in one forward. With
p = target, q = draft and U_j uniform, at position j:

    accept d_j  iff  log U_j <= log p_j(d_j) - log q_j(d_j);  stop at the first rejection
    after a rejection at j:   x ~ norm(max(p_j - q_j, 0))
    after γ acceptances:      x ~ p_(γ+1)

Lossless: the accepted mass min(p, q) plus the residual mass max(p - q, 0) is p. With
`accept_threshold` t the random test becomes p_j(d_j)/q_j(d_j) >= t and the residual becomes p,
which is lossy: the ablation that shows what the joint ratio of MTAD adds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

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
    accept_chain,
    at_node,
    chain_path,
    endpoint,
    passes_coin,
    prefix_length,
)
from mtad.speculative.drafting import sampled_tree
from mtad.speculative.facts import SHARES, Dial, Reads
from mtad.speculative.method import Method, Verdict


@dataclass(frozen=True)
class SpeculativeSampling(Method):
    """Chain drafts with the exact acceptance rule of Leviathan et al. and Chen et al.

    Attributes:
        num_draft_tokens: γ, draft tokens per iteration.
        accept_threshold: None for the exact rule; a ratio >= 0 for the lossy fixed threshold.
    """

    num_draft_tokens: Count = 4
    accept_threshold: Annotated[float, Ge(0)] | None = None

    name: ClassVar[str] = "speculative_sampling"
    lossless: ClassVar[bool] = True
    citation: ClassVar[str] = (
        "Leviathan et al. 2023, arXiv 2211.17192; Chen et al. 2023, arXiv 2302.01318"
    )
    drafting: ClassVar[tuple[str, ...]] = ("num_draft_tokens",)
    dial: ClassVar[Dial | None] = Dial("accept_threshold", SHARES)
    judges_candidates: ClassVar[bool] = True
    reads: ClassVar[Reads | None] = Reads("chain", draft="distributions")

    @property
    def is_lossless(self) -> bool:
        """Only with the exact rule."""
        return self.accept_threshold is None

    @property
    def needs(self) -> Reads | None:
        """A threshold compares the two values of each drafted token."""
        return self.reads if self.is_lossless else Reads("chain", draft="values", target="values")

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
        p = warp(target_logits, tree)
        if self.accept_threshold is None:
            return accept_chain(tree, p, passes_coin(tree, p, noise), noise)
        log_ratio = (tree.token_values(p) - tree.node_logprobs)[:, 1:].double()
        bar = math.log(self.accept_threshold) if self.accept_threshold > 0 else -math.inf
        length = prefix_length(tree.alive[:, 1:] & (log_ratio >= max(bar, -1e300)))
        return Verdict(chain_path(tree), length, endpoint(at_node(p, length), noise))

    def num_nodes(self, vocab: int, max_new_tokens: int) -> int:
        """The chain and the root."""
        return self.num_draft_tokens + 1

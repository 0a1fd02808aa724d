"""Speculative sampling with lenience: draft tokens are accepted more readily than is exact.

With p = target, q = draft, 0 < l <= 1 and U_j uniform, at position j of a sampled chain:

    accept d_j  iff  log U_j <= log p_j(d_j) - log(l q_j(d_j));  stop at the first rejection
    after a rejection at j:   x ~ norm(max(p_j - l q_j, 0))
    after γ acceptances:      x ~ p_(γ+1)

l = 1 is speculative sampling (Leviathan et al. 2023, arXiv 2211.17192, whose appendix has the
idea). Lossy for l < 1: a token is accepted with probability min(q, p/l), which may exceed p.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Gt, Le
from jaxtyping import Float
from torch import Tensor

from mtad.core.noise import Noise
from mtad.core.options import Count
from mtad.core.prefix import Prefix
from mtad.core.tree import TokenTree
from mtad.model.drafter import Drafter
from mtad.sampling.warper import Warper
from mtad.speculative.acceptance import (
    chain_logprobs,
    chain_path,
    endpoint,
    prefix_length,
    speculative_endpoint_logprobs,
)
from mtad.speculative.drafting import sampled_tree
from mtad.speculative.facts import Dial, Reads
from mtad.speculative.method import Method, Verdict


@dataclass(frozen=True)
class LenientSampling(Method):
    """Chain drafts with a lenient acceptance test.

    Attributes:
        num_draft_tokens: γ, draft tokens per iteration.
        lenience: l, 1 for the exact rule.
    """

    num_draft_tokens: Count = 4
    lenience: Annotated[float, Gt(0), Le(1)] = 0.5

    name: ClassVar[str] = "lenient_sampling"
    lossless: ClassVar[bool] = False
    citation: ClassVar[str] = "Leviathan et al. 2023, arXiv 2211.17192, appendix"
    drafting: ClassVar[tuple[str, ...]] = ("num_draft_tokens",)
    dial: ClassVar[Dial | None] = Dial("lenience", (0.2, 0.4, 0.6, 0.8))
    reads: ClassVar[Reads | None] = Reads("chain", draft="distributions")

    @property
    def is_lossless(self) -> bool:
        """Only without lenience."""
        return self.lenience == 1

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
        p, scaled_q = warp(target_logits, tree), chain_logprobs(tree) + math.log(self.lenience)
        alive = tree.alive[:, 1:]
        log_ratio = (tree.token_values(p) - tree.node_logprobs)[:, 1:] - math.log(self.lenience)
        u = noise.uniform("accept", tree.depth)
        length = prefix_length(alive & (u.log() <= log_ratio))
        law = speculative_endpoint_logprobs(p, scaled_q, alive, length)
        return Verdict(chain_path(tree), length, endpoint(law, noise))

    def num_nodes(self, vocab: int, max_new_tokens: int) -> int:
        """The chain and the root."""
        return self.num_draft_tokens + 1

"""BiLD, the big little decoder: the draft runs until it is unsure, the target rolls it back.

With p = target, q = draft, both without temperature and truncation for the two tests:

    fallback:  the draft stops before a token if max_v q(v) < α_FB, and after γ_max tokens
    rollback:  at the first j with -log p(d_j) > α_RB and argmax p != d_j, drop d_j and the rest
    endpoint:  the target's own next token after what is left

Tokens are drawn with temperature and truncation; temperature 0 is greedy decoding, the setting of
the paper. The run starts with the target. A draft token that the target's truncation removes is
still judged by p without it. Lossy.

The receipt has the largest 1 - p/q of the draft tokens that were accepted: the probability with
which speculative sampling would have rejected that token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from jaxtyping import Float
from torch import Tensor

from mtad.core.noise import Noise, sample
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
from mtad.speculative.drafting import Level, may_extend
from mtad.speculative.facts import Dial, Reads
from mtad.speculative.method import Method, Verdict


@dataclass(frozen=True)
class BiLD(Method):
    """Variable-length drafts with a fallback and a rollback policy.

    Attributes:
        fallback_threshold: α_FB, the draft goes on while its top probability is at least this.
        rollback_threshold: α_RB in nats, the loss above which the target takes back a token.
        num_draft_tokens: γ_max, most draft tokens per iteration.
    """

    fallback_threshold: Annotated[float, Ge(0)] = 0.6
    rollback_threshold: Annotated[float, Gt(0)] = 5.0
    num_draft_tokens: Count = 10

    name: ClassVar[str] = "bild"
    lossless: ClassVar[bool] = False
    citation: ClassVar[str] = "Kim et al. 2023, arXiv 2302.07863"
    drafting: ClassVar[tuple[str, ...]] = ("fallback_threshold", "num_draft_tokens")
    dial: ClassVar[Dial | None] = Dial("rollback_threshold", (0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 12.0))
    entries: ClassVar[tuple[str, ...]] = ("largest_overshoot",)
    reads: ClassVar[Reads | None] = Reads("chain")

    def draft(self, lm: Drafter | None, prefix: Prefix, warp: Warper, noise: Noise) -> TokenTree:
        """A chain that ends where the draft is unsure; one flag is read per draft step."""
        assert lm is not None
        tree = prefix.root()
        running = (prefix.num_new > 0)[:, None]
        for depth in range(self.num_draft_tokens):
            running = running & may_extend(tree, prefix)
            if not bool(running.any()):
                break
            said = Level.after(lm, tree, prefix, warp)
            level, top = said.warped, said.raw.values.amax(-1)
            place = sample(level.values, noise.uniform(f"draft {depth}", 1))
            token = level.tokens(place[:, :, None])[:, :, 0]
            running = running & (top.exp() >= self.fallback_threshold)
            tree = tree.grow(
                token,
                torch.full_like(token, depth),
                running,
                torch.where(running, level.values.gather(2, place[:, :, None])[:, :, 0], 0.0),
            )
        return tree

    def verify(
        self,
        tree: TokenTree,
        target_logits: Float[Tensor, "rows nodes vocab"],
        warp: Warper,
        noise: Noise,
    ) -> Verdict:
        """Everything before the first offending token, then a token from the target."""
        raw, p = warp.raw(target_logits, tree), warp(target_logits, tree)
        loss = -tree.token_values(raw)
        best = p.argmax(-1).gather(1, tree.parents.clamp(min=0))
        offends = (loss > self.rollback_threshold) & (best != tree.tokens)
        length = prefix_length((~offends & tree.alive)[:, 1:])
        path = chain_path(tree)
        kept = largest_overshoot(warp.ledger, tree, tree.token_values(p), path, length)
        return Verdict(path, length, endpoint(at_node(p, length), noise), kept)

    def num_nodes(self, vocab: int, max_new_tokens: int) -> int:
        """The longest run and the root."""
        return self.num_draft_tokens + 1

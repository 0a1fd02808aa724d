"""Autoregressive: one token per target call.

The baseline, written as a method with an empty draft so that a speed-up compares two runs of the
same loop. The rule, with p = target: x ~ p(. | prefix). Temperature 0 is greedy decoding. Lossless
by definition.
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
from mtad.speculative.acceptance import chain_path, endpoint
from mtad.speculative.facts import Reads
from mtad.speculative.method import Method, Verdict


@dataclass(frozen=True)
class Autoregressive(Method):
    """Ordinary token-by-token decoding with the target alone."""

    name: ClassVar[str] = "autoregressive"
    lossless: ClassVar[bool] = True
    citation: ClassVar[str] = "ancestral sampling"
    drafter: ClassVar[Literal["draft", "target", "none"]] = "none"
    drafting: ClassVar[tuple[str, ...]] = ()
    judges_candidates: ClassVar[bool] = True
    reads: ClassVar[Reads | None] = Reads("any", target="values")

    def draft(self, lm: Drafter | None, prefix: Prefix, warp: Warper, noise: Noise) -> TokenTree:
        """The root alone."""
        return prefix.root()

    def verify(
        self,
        tree: TokenTree,
        target_logits: Float[Tensor, "rows nodes vocab"],
        warp: Warper,
        noise: Noise,
    ) -> Verdict:
        """One token from the target."""
        token = endpoint(warp(target_logits, tree)[:, 0], noise)
        return Verdict(chain_path(tree), token.new_zeros(token.shape), token)

    def num_nodes(self, vocab: int, max_new_tokens: int) -> int:
        """The root."""
        return 1

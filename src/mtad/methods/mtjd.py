"""MTJD, multi-token joint decoding: blocks of the target chosen by their joint likelihood.

Each step emits a block of γ tokens chosen by p(block | prefix) = Π_j p(x_j | prefix, x_<j), with
p = target; no draft. `joint` says where the sampling settings act, for drawing a block from the
plain joint distribution is the same as drawing token by token:

    "none":        block ~ p(block)                             (equals plain sampling)
    "temperature": block ~ norm(p(block)^(1/T))
    "top_k":       block ~ the k most likely blocks, renormalised
    "top_p":       block ~ the most likely blocks until their mass passes P, renormalised
    "argmax":      the most likely block (MJGD)
    "beam":        W beams on the target: beam search at temperature 0, otherwise beam sampling
                   with temperature and truncation, and one final draw in proportion to the
                   beams' weights

All but "beam" enumerate all V^γ blocks and are for small vocabularies. Temperature 0 makes every
variant the most likely block. Blocks shorten to the remaining budget; EOS ends a block. Lossless
only towards its own joint distribution, not towards token-level sampling.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mtad.core.noise import Noise, first_argmax, sample
from mtad.core.options import Count
from mtad.core.prefix import Prefix
from mtad.core.tree import TokenTree
from mtad.model.drafter import Drafter
from mtad.sampling.params import SamplingParams
from mtad.sampling.truncation import NEVER
from mtad.sampling.warper import Warper
from mtad.speculative.acceptance import accept_all
from mtad.speculative.beams import beams
from mtad.speculative.method import Method, Verdict

MAX_NODES = 4_096
"""Largest tree that is enumerated."""

USED = {
    "none": set(),
    "temperature": {"temperature"},
    "top_k": {"top_k"},
    "top_p": {"top_p"},
    "argmax": set(),
    "beam": {"temperature", "top_k", "top_p", "min_p"},
}
"""Which sampling settings each variant applies to the joint distribution."""


@dataclass(frozen=True)
class MTJD(Method):
    """Joint decoding with the target alone; what MTAD approximates.

    Attributes:
        num_block_tokens: γ, tokens per block.
        joint: the variant, see above.
        beam_width: W, for "beam".
    """

    num_block_tokens: Count = 4
    joint: Literal["none", "temperature", "top_k", "top_p", "argmax", "beam"] = "beam"
    beam_width: Count = 4

    name: ClassVar[str] = "mtjd"
    lossless: ClassVar[bool] = False
    citation: ClassVar[str] = "Qin et al., ICLR 2025, arXiv 2407.09722, section 3"
    drafter: ClassVar[Literal["draft", "target", "none"]] = "target"
    drafting: ClassVar[tuple[str, ...]] = ("num_block_tokens", "joint", "beam_width")

    def check(self, params: SamplingParams) -> None:
        """Refuse settings that would act on single tokens; temperature 0 asks for the argmax."""
        acting = {"temperature", "top_k", "top_p", "min_p"} - USED[self.joint]
        if params.temperature == 0:
            acting.discard("temperature")
        self._refuse(params, acting, f"joint={self.joint!r} acts on whole blocks")

    def draft(self, lm: Drafter | None, prefix: Prefix, warp: Warper, noise: Noise) -> TokenTree:
        """One block, drawn by the joint rule."""
        assert lm is not None
        enumerate_all = self.joint != "beam"
        tree, state = beams(
            lm,
            prefix,
            warp,
            noise,
            width=self.beam_width,
            depth=min(self.num_block_tokens, prefix.horizon),
            selection="all" if enumerate_all else "sample",
            scored_by="raw" if enumerate_all else "searched",
            reserved=0,
        )
        logprobs = self.block_logprobs(state.scores, warp)
        leaf = tree.last_level.start + sample(logprobs, noise.uniform("block"))
        return tree.select(tree.path_to(leaf))

    def block_logprobs(
        self, scores: Float[Tensor, "rows blocks"], warp: Warper
    ) -> Float[Tensor, "rows blocks"]:
        """Log-probabilities of the block, from the joint ones of all candidates."""
        best = first_argmax(scores)[:, None]
        one_hot = torch.full_like(scores, NEVER).scatter(1, best, 0.0)
        if self.joint == "argmax":
            return one_hot
        if self.joint == "beam":
            logprobs = scores.log_softmax(1)
        else:
            logprobs = warp.truncate(scores[:, None])[:, 0]
        return torch.where(warp.is_greedy[:, 0], one_hot, logprobs)

    def verify(
        self,
        tree: TokenTree,
        target_logits: Float[Tensor, "rows nodes vocab"],
        warp: Warper,
        noise: Noise,
    ) -> Verdict:
        """The block as it is."""
        return accept_all(tree)

    def num_nodes(self, vocab: int, max_new_tokens: int) -> int:
        """Every block's nodes, or the beams'; refuses what is too much to enumerate."""
        if self.joint == "beam":
            return self.num_block_tokens * self.beam_width + 1
        nodes: int = sum(vocab**depth for depth in range(self.num_block_tokens + 1))
        if nodes > MAX_NODES:
            raise ValueError(
                f"mtjd: joint={self.joint!r} enumerates {vocab}^{self.num_block_tokens} blocks, "
                f"{nodes:,} nodes where {MAX_NODES:,} are allowed; use joint='beam'"
            )
        return nodes

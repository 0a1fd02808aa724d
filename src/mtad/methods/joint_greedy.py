"""Joint greedy: at temperature 0, the longest block of a beam tree that is as likely as greedy's.

The draft keeps W beams for γ steps, and the target scores all of their nodes in one tree forward.
With p = target, for a node v of depth j:

    e(v) = log p(path to v) + max_x log p(x | path)        the block "path, then the argmax"
    G    = the deepest node on whose path every token is the target's argmax; m is its depth
    ref(n) = log p of the n argmaxes that G's path begins with, for n <= m;  e(G) for n > m
    v is admissible  iff  v = G,  or  e(v) >= ref(j + 1) - M  and v is no EOS

The deepest admissible node wins, of equals the one of largest e(v), then G. With M = 0 the block is
at least as likely as what greedy decoding would write from here in as many tokens, and no shorter
than greedy speculative decoding's on this tree: up to m + 1 tokens ref is greedy's own value, and
beyond them greedy's can only fall. That is said of every block from where it begins, not of the
whole text; Σ e(v) - ref over its blocks is kept as the certified gain. Deterministic; lossy, as the
text may leave the greedy one for a likelier block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mtad.core.noise import Noise
from mtad.core.options import Count, Finite
from mtad.core.prefix import Prefix
from mtad.core.tree import TokenTree
from mtad.model.drafter import Drafter
from mtad.sampling.params import SamplingParams
from mtad.sampling.truncation import NEVER
from mtad.sampling.warper import Warper
from mtad.speculative.acceptance import first_deepest, path_is_true, value_at
from mtad.speculative.beams import beams
from mtad.speculative.facts import Dial, Reads
from mtad.speculative.method import Method, Verdict


@dataclass(frozen=True)
class JointGreedy(Method):
    """Greedy decoding by blocks instead of tokens; needs temperature 0.

    Attributes:
        num_draft_tokens: γ, depth of the tree.
        beam_width: W, nodes per level; 1 is greedy speculative decoding.
        joint_margin: M in nats; above 0 a longer block may be that much less likely than greedy's,
            below 0 it must be that much likelier before the text leaves greedy's.
    """

    num_draft_tokens: Count = 4
    beam_width: Count = 4
    joint_margin: Finite = 0.0

    name: ClassVar[str] = "joint_greedy"
    lossless: ClassVar[bool] = False
    citation: ClassVar[str] = (
        "mtad; the joint criterion of MTAD (arXiv 2407.09722) at temperature 0"
    )
    drafting: ClassVar[tuple[str, ...]] = ("num_draft_tokens", "beam_width")
    dial: ClassVar[Dial | None] = Dial("joint_margin", (-1.0, -0.3, 0.0, 0.3, 0.5, 1.0, 3.0))
    reads: ClassVar[Reads | None] = Reads("any")
    entries: ClassVar[tuple[str, ...]] = ("certified_gain",)

    @property
    def endpoint(self) -> Literal["sample", "greedy"]:
        """The token after the path is its argmax."""
        return "greedy"

    def check(self, params: SamplingParams) -> None:
        """Refuse what a search on the target's own distribution can't honour."""
        self._refuse_sampling(params)

    def draft(self, lm: Drafter | None, prefix: Prefix, warp: Warper, noise: Noise) -> TokenTree:
        """The tree of all beams, the most likely ones."""
        assert lm is not None
        tree, _ = beams(
            lm,
            prefix,
            warp,
            noise,
            width=self.beam_width,
            depth=self.num_draft_tokens,
            selection="search",
            scored_by="raw",
        )
        return tree

    def verify(
        self,
        tree: TokenTree,
        target_logits: Float[Tensor, "rows nodes vocab"],
        warp: Warper,
        noise: Noise,
    ) -> Verdict:
        """The deepest block that is likely enough, and the argmax after it."""
        scores = warp.process(target_logits, tree, None)
        best, logprobs = scores.argmax(-1), scores.log_softmax(-1)
        path = tree.accumulate(tree.token_values(logprobs).masked_fill(~tree.alive, NEVER))
        block = path + logprobs.amax(-1)
        goes_on = self._goes_on(tree, warp)
        wanted = best.gather(1, tree.parents.clamp(min=0))
        is_greedy = path_is_true(tree, goes_on & (tree.tokens == wanted))
        greedy, known = first_deepest(tree, is_greedy, path)
        ref = self._reference(tree, path.masked_fill(~is_greedy, NEVER), value_at(block, greedy))
        own = torch.arange(tree.num_nodes, device=greedy.device) == greedy[:, None]
        admissible = own | (goes_on & (block >= ref - self.joint_margin))
        node, depth = first_deepest(tree, admissible, block)
        is_as_good = value_at(block, greedy) >= value_at(block, node)
        node = torch.where((known == depth) & is_as_good, greedy, node)
        gain = warp.ledger + value_at(block - ref, node)[:, None]
        return Verdict(tree.path_to(node), depth, value_at(best, node), gain)

    def _goes_on(self, tree: TokenTree, warp: Warper) -> Bool[Tensor, "rows nodes"]:
        """Nodes after which there is another token; the root may be an EOS."""
        assert warp.prefix is not None
        return tree.alive & ~(warp.prefix.is_eos(tree.tokens) & (tree.depths > 0))

    def _reference(
        self,
        tree: TokenTree,
        greedy_path: Float[Tensor, "rows nodes"],
        longest: Float[Tensor, " rows"],
    ) -> Float[Tensor, "rows nodes"]:
        """What greedy's block of each node's length has; `longest` is that of the longest known."""
        levels = [greedy_path[:, level].amax(1) for level in tree.levels[1:]]
        known = torch.stack([*levels, torch.full_like(longest, NEVER)], dim=1)
        return torch.where(known > NEVER, known, longest[:, None])[:, tree.depths]

    def num_nodes(self, vocab: int, max_new_tokens: int) -> int:
        """All beams of all levels, and the root."""
        return self.num_draft_tokens * self.beam_width + 1

"""Beam search: the most likely texts of the target, W at a time.

With p = target, the W prefixes of largest Σ log p are kept at every length; an EOS ends a beam. At
the end the beam of largest Σ log p / length^λ is the text. Deterministic: one joint block that
covers the whole output, so it streams nothing before the end, and its tree holds W nodes per
token. Temperature 0 and 1 both mean the model's own distribution. Not a sampler, hence not
lossless.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from mtad.core.noise import Noise, first_argmax
from mtad.core.options import Count, Finite
from mtad.core.prefix import Prefix
from mtad.core.tree import TokenTree
from mtad.model.drafter import Drafter
from mtad.sampling.params import SamplingParams
from mtad.sampling.warper import Warper
from mtad.speculative.acceptance import accept_all
from mtad.speculative.beams import beams
from mtad.speculative.method import Method, Verdict


@dataclass(frozen=True)
class BeamSearch(Method):
    """Beam search on the target alone.

    Attributes:
        num_beams: W.
        length_penalty: λ, 0 for the plain sum.
    """

    num_beams: Count = 4
    length_penalty: Finite = 0.0

    name: ClassVar[str] = "beam_search"
    lossless: ClassVar[bool] = False
    citation: ClassVar[str] = "Lowerre 1976; Wu et al. 2016, arXiv 1609.08144"
    drafter: ClassVar[Literal["draft", "target", "none"]] = "target"
    drafting: ClassVar[tuple[str, ...]] = ("num_beams", "length_penalty")

    def check(self, params: SamplingParams) -> None:
        """Refuse what a search can't honour."""
        names = {"top_k", "top_p", "min_p"} | ({"temperature"} if params.temperature else set())
        self._refuse(params, names, "it searches the model's own distribution")

    def draft(self, lm: Drafter | None, prefix: Prefix, warp: Warper, noise: Noise) -> TokenTree:
        """The best beam, from here to the end of the text."""
        assert lm is not None
        tree, state = beams(
            lm,
            prefix,
            warp,
            noise,
            width=self.num_beams,
            depth=prefix.horizon,
            selection="search",
            scored_by="raw",
            reserved=0,
        )
        lines = tree.ancestors[:, tree.last_level, 1:] & tree.alive[:, None, 1:]
        best = first_argmax(state.scores / lines.sum(2) ** self.length_penalty)
        return tree.select(tree.path_to(tree.last_level.start + best))

    def verify(
        self,
        tree: TokenTree,
        target_logits: Float[Tensor, "rows nodes vocab"],
        warp: Warper,
        noise: Noise,
    ) -> Verdict:
        """The text as it is."""
        return accept_all(tree)

    def num_nodes(self, vocab: int, max_new_tokens: int) -> int:
        """All beams of all levels, and the root."""
        return self.num_beams * max_new_tokens + 1

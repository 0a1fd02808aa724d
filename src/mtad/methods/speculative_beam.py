"""Speculative beam search: the text of the target's beam search, several tokens per call.

With p = target, the K texts of largest Σ log p are kept, each where it differs from the others. A
tree begins with them, and goes on with beams of the draft, ranked by Σ log p of the hypothesis and
Σ log q of what was drafted. The target scores all of it in one call; then

    while every text that goes on is a node:
        replace the K texts by the best K of all (text, token) pairs, by Σ log p

so each call goes on by at least one token. What all K texts begin with is committed, which may be
nothing; once all have ended, the one of largest Σ log p / length^λ is. Texts that differ from the
best one earlier than in their last γ tokens are given up. With one hypothesis this is greedy
speculative decoding; where nothing is given up it is beam search, token for token. Temperature 0
alone: the model's own distribution is searched. Not a sampler, hence not lossless.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from mtad.core.noise import Noise, first_argmax
from mtad.core.options import Count, Finite
from mtad.core.prefix import Prefix
from mtad.core.tree import TokenTree
from mtad.model.drafter import Drafter
from mtad.sampling.params import SamplingParams
from mtad.sampling.warper import Warper
from mtad.speculative.acceptance import value_at
from mtad.speculative.hypotheses import Hypotheses, Searching
from mtad.speculative.method import Method, Verdict, require
from mtad.speculative.search import Search, pending_tree


@dataclass(frozen=True)
class SpeculativeBeam(Method):
    """Beam search on the target, its levels taken from draft trees.

    Attributes:
        num_beams: K, hypotheses; 1 is greedy speculative decoding.
        num_draft_tokens: γ, levels of the tree, those of the hypotheses included.
        beam_width: nodes per level, room for all hypotheses.
        length_penalty: λ, 0 for the plain sum.
        pinned: keep the greedy text as one more hypothesis, from which others may differ in their
            last γ tokens alone: the text is then never less likely than the greedy one.
    """

    num_beams: Count = 2
    num_draft_tokens: Count = 6
    beam_width: Count = 4
    length_penalty: Finite = 0.0
    pinned: bool = False

    name: ClassVar[str] = "speculative_beam"
    lossless: ClassVar[bool] = False
    citation: ClassVar[str] = "own; after Qin et al., arXiv 2409.16560 (DSBD)"
    entries: ClassVar[tuple[str, ...]] = ("log_likelihood",)
    drafting: ClassVar[tuple[str, ...]] = (
        "num_beams",
        "num_draft_tokens",
        "beam_width",
        "length_penalty",
        "pinned",
    )

    def __post_init__(self) -> None:
        """Refuse trees that have no room for the hypotheses."""
        super().__post_init__()
        fits = self.beam_width >= self._how.num_texts
        require(fits, self, "beam_width", f"at least {self._how.num_texts}, one for each text")

    @property
    def _how(self) -> Searching:
        return Searching(self.num_beams, self.pinned, self.num_draft_tokens)

    @property
    def kept(self) -> tuple[str, ...]:
        """And the hypotheses, which are nothing to show."""
        return (*self.entries, *(f"_{index}" for index in range(self._how.num_entries)))

    def check(self, params: SamplingParams) -> None:
        """Refuse what a search on the target's own distribution can't honour."""
        self._refuse_sampling(params)

    def draft(self, lm: Drafter | None, prefix: Prefix, warp: Warper, noise: Noise) -> TokenTree:
        """The hypotheses and the draft's beams below them."""
        assert lm is not None
        return pending_tree(Hypotheses.of(self._how, prefix), lm, prefix, warp, self.beam_width)

    def verify(
        self,
        tree: TokenTree,
        target_logits: Float[Tensor, "rows nodes vocab"],
        warp: Warper,
        noise: Noise,
    ) -> Verdict:
        """The search as far as the tree goes, and what is certain of its text."""
        prefix = warp.prefix
        assert prefix is not None
        raw = warp.raw(target_logits, tree)
        ids = raw.topk(min(self.num_beams, raw.shape[2]), dim=2).indices.sort(2).values
        values = raw.gather(2, ids)
        search = Search.begin(Hypotheses.of(self._how, prefix), tree.widths[-1])
        for _ in range(tree.depth + 1):
            search = search.step(tree, prefix, values, ids)
        return self._verdict(tree, prefix, search)

    def _verdict(self, tree: TokenTree, prefix: Prefix, search: Search) -> Verdict:
        """Commit what all texts begin with, or the best one where it is known."""
        texts = search.texts.within_window()
        lengths = (prefix.num_new[:, None] + texts.lengths).clamp(min=1)
        best = first_argmax(texts.scores / lengths**self.length_penalty)
        is_done = ~texts.open.any(1)
        if self.length_penalty == 0:  # scores only fall, so that one that leads has won
            is_done = is_done | value_at(texts.ended, best)
        best = torch.where(is_done, best, self._how.reference)
        count = torch.where(is_done, value_at(texts.lengths, best), texts.num_common())
        tokens = texts.tokens.gather(1, best[:, None, None].expand(-1, 1, texts.tokens.shape[2]))
        return Verdict(
            tree.path_to(value_at(search.nodes, best)),
            count - 1,
            value_at(tokens[:, 0], (count - 1).clamp(min=0)),
            torch.cat([value_at(texts.scores, best)[:, None], texts.after(count).entries()], dim=1),
        )

    def num_nodes(self, vocab: int, max_new_tokens: int) -> int:
        """All levels, and the root."""
        return self.num_draft_tokens * self.beam_width + 1

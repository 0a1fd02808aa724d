"""Judging a tree on the few tokens that have any probability.

After top-k a law has some dozen tokens of a vocabulary of tens of thousands, and rules of
acceptance ask of tokens only which are equal and which is lower. So the tokens that any law of a
row has, and those of its tree, are numbered anew in their order, and the rule judges these: the
same numbers as over the vocabulary, without tensors of nodes × vocabulary. Knows no rule.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mtad.core.noise import Noise
from mtad.core.sparse import SparseLogprobs, places_among
from mtad.core.tree import TokenTree
from mtad.sampling.warper import Warper
from mtad.speculative.method import Method, Verdict

SMALL = 8_192
"""Vocabularies up to this size stay whole."""
SHARE = 4
"""Least ratio of the vocabulary to the tokens that are judged."""


def judges_few(method: Method, tree: TokenTree, vocab: int, warp: Warper) -> bool:
    """Whether a tree is judged on few tokens: `judge` then asks for `warp.compact` alone.

    Args:
        method, tree, warp: as for `judge`.
        vocab: number of the target's logits.
    """
    return _few_laws(method, tree, vocab, warp) is not None


def _few_laws(
    method: Method, tree: TokenTree, vocab: int, warp: Warper
) -> list[SparseLogprobs] | None:
    """The draft's laws that the rule reads where it judges few tokens; None where it does not."""
    needs = method.needs
    laws = () if needs is not None and needs.draft != "distributions" else tree.draft_laws
    sparse = [law for law in laws if isinstance(law, SparseLogprobs)]
    is_able = method.judges_candidates and method.ratio_on == "warped"
    if not is_able or len(sparse) < len(laws):
        return None
    count = tree.num_nodes * (warp.width + 1) + sum(law.ids[0].numel() for law in sparse)
    return sparse if vocab > max(SMALL, SHARE * count, warp.width) else None


def judge(
    method: Method,
    tree: TokenTree,
    logits: Float[Tensor, "rows nodes vocab"],
    warp: Warper,
    noise: Noise,
) -> Verdict:
    """What `method.verify` says, on few tokens where these are all that has any probability."""
    sparse = _few_laws(method, tree, logits.shape[-1], warp)
    if sparse is None:
        return method.verify(tree, logits, warp, noise)
    values, ids = warp.compact(logits, tree)
    assert ids is not None
    found = [ids.flatten(1), tree.tokens, *(law.ids.flatten(1) for law in sparse)]
    tokens = torch.cat(found, dim=1).sort(1).values
    few = replace(
        tree,
        tokens=places_among(tokens, tree.tokens),
        draft_laws=tuple(law.over(tokens) for law in sparse),
    )
    p = SparseLogprobs(values, ids, warp.vocab).over(tokens)
    fixed = _Warped(**{f.name: getattr(warp, f.name) for f in fields(Warper)})
    verdict = method.verify(few, p, fixed, noise)
    return replace(verdict, next_token=tokens.gather(1, verdict.next_token[:, None])[:, 0])


class _Warped(Warper):
    """Of log-probabilities that are warped already."""

    def __call__(self, logits: Tensor, tree: TokenTree, nodes: slice | None = None) -> Tensor:
        """What is given."""
        return logits if nodes is None else logits[:, nodes]

    def process(self, *given: Any) -> Tensor:
        """Nothing: the logits are not there any more."""
        raise AssertionError("a method that judges candidates asks for warp(target_logits, tree)")

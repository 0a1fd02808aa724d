"""How drafts are made with beams: the drafter's most likely texts, or draws without replacement.

The drafter is fed one level at a time; shapes are static. Nothing here reads a tensor back to the
host.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mtad.core.noise import Noise, sample_distinct, sample_many
from mtad.core.prefix import Prefix
from mtad.core.tree import TokenTree
from mtad.model.drafter import Drafter
from mtad.sampling.truncation import NEVER
from mtad.sampling.warper import Warper
from mtad.speculative.drafting import Level, LevelLogprobs, may_extend


@dataclass(frozen=True)
class Beams:
    """The beams of one level, best first.

    Attributes:
        scores: (B, W) joint log-probability under what it was drawn from; -inf for empty places.
        finished: (B, W) beams that ended in an EOS or met the budget; they stay as they are.
    """

    scores: Float[Tensor, "rows width"]
    finished: Bool[Tensor, "rows width"]


Selection = Literal["search", "sample", "sample_with_replacement", "all"]
RatioOn = Literal["warped", "raw"]
"""Log-probabilities with, or without, temperature and truncation."""


def beams(
    lm: Drafter,
    prefix: Prefix,
    warp: Warper,
    noise: Noise,
    *,
    width: int,
    depth: int,
    selection: Selection,
    scored_by: RatioOn | Literal["searched"] = "warped",
    ratio_on: RatioOn = "warped",
    reserved: int = 1,
) -> tuple[TokenTree, Beams]:
    """The tree of all beams and the final beams; node 0 of the last level ends the best one.

    Candidates (beam, token) are pooled with the exact chain log-probability as their score; each
    level keeps `width` of them, in descending order. A finished beam offers itself once, with no
    change of score; the node it stays on is dead.

    Args:
        lm, prefix, warp, noise: as in `Method.draft`.
        width: W; fewer are kept where the pool's support is smaller.
        depth: number of levels.
        selection: "search" keeps the best, "sample" draws without replacement from the pool,
            "sample_with_replacement" draws independently and merges equals, "all" keeps
            every candidate.
        scored_by: what beams are scored and drawn by; "searched" is "warped", but "raw" in rows of
            temperature 0, whose warped one would leave a single candidate.
        ratio_on: which log-probabilities the tree keeps.
        reserved: tokens of the budget kept for the endpoint.
    """
    tree = prefix.root()
    start = torch.zeros_like(tree.node_logprobs)
    state = Beams(start, ~may_extend(tree, prefix, reserved))
    for step in range(depth):
        said = Level.after(lm, tree, prefix, warp)
        level = _scored(scored_by, said)
        kept = level.values
        if ratio_on == "raw":
            kept = warp.unless_greedy(level.values, level.pick(said.raw.values))
        pool = _pooled(state, level)
        chosen = _choose(pool, width, selection, warp, noise, f"beam {step}")
        tree, state = _advance(tree, prefix, state, level, *chosen, kept, reserved)
    return tree, state


def beam_tree(method: Any, lm: Drafter, prefix: Prefix, warp: Warper, noise: Noise) -> TokenTree:
    """The tree of all beams with the options of MTAD and MMTAD."""
    tree, _ = beams(
        lm,
        prefix,
        warp,
        noise,
        width=method.beam_width,
        depth=method.num_draft_tokens,
        selection=method.beam,
        ratio_on=method.ratio_on,
    )
    return tree


def best_path(tree: TokenTree) -> Int[Tensor, "rows depth"]:
    """The path of the best beam, which ends in the first node of the last level."""
    first = tree.previous.new_full((tree.num_rows,), tree.last_level.start)
    return tree.path_to(first)


def _scored(scored_by: str, said: Level) -> LevelLogprobs:
    """The log-probabilities of the deepest level that `scored_by` names."""
    if scored_by == "warped" or (scored_by == "searched" and not said.warp.greedy):
        return said.warped
    if scored_by != "searched":
        return said.raw
    warped = said.warped.complete()
    values = torch.where(said.warp.is_greedy, said.raw.values, warped.values)
    return replace(said.raw, values=values)


def _pooled(state: Beams, level: LevelLogprobs) -> Float[Tensor, "rows pool"]:
    """Joint log-probabilities of all (beam, candidate) pairs, in ascending order of both.

    A finished beam is its own first candidate, at no cost.
    """
    scores = state.scores.masked_fill(state.finished, NEVER)[:, :, None] + level.values
    scores[:, :, 0] = torch.where(state.finished, state.scores, scores[:, :, 0])
    return scores.flatten(1)


def _choose(
    all_scores: Float[Tensor, "rows pool"],
    width: int,
    selection: Selection,
    warp: Warper,
    noise: Noise,
    tag: str,
) -> tuple[Int[Tensor, "rows width"], Float[Tensor, "rows width"]]:
    """Places and scores of the chosen candidates, best first, lowest place among equals.

    Which of equal candidates at the edge of the beam are kept is up to `topk`.
    """
    count = all_scores.shape[1]
    if selection == "all":
        return torch.arange(count, device=all_scores.device).expand(len(all_scores), -1), all_scores
    width = min(width, count)
    if selection == "sample_with_replacement":
        index = sample_many(all_scores.log_softmax(1), noise.uniform(tag, width)).sort(1).values
        repeated = index[:, 1:] == index[:, :-1]
        empty = torch.nn.functional.pad(repeated, (1, 0))
        scores = all_scores.gather(1, index).masked_fill(empty, NEVER)
    else:
        index, scores = _distinct(all_scores, width, selection, warp, noise, tag)
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    return index.gather(1, order), scores


def _distinct(
    all_scores: Tensor, width: int, selection: Selection, warp: Warper, noise: Noise, tag: str
) -> tuple[Tensor, Tensor]:
    """Places, ascending, and scores of `width` candidates, drawn or, in greedy rows, the best."""
    if selection == "sample":
        index, is_drawn = sample_distinct(all_scores, noise.uniform(tag, width))
        scores = all_scores.gather(1, index).masked_fill(~is_drawn, NEVER)
    if selection == "search" or warp.greedy:
        best, places = all_scores.topk(width, dim=1)
        if selection == "sample":
            best = torch.where(warp.is_greedy[:, 0], best, scores)
            places = torch.where(warp.is_greedy[:, 0], places, index)
        index, scores = places, best
    index, order = index.sort(1)
    return index, scores.gather(1, order)


def _advance(
    tree: TokenTree,
    prefix: Prefix,
    state: Beams,
    level: LevelLogprobs,
    chosen: Tensor,
    scores: Tensor,
    kept: Tensor,
    reserved: int,
) -> tuple[TokenTree, Beams]:
    """The tree and the beams one level further down."""
    count = level.values.shape[2]
    beam, place = chosen // count, chosen % count
    stays = state.finished.gather(1, beam)
    token = place if level.ids is None else level.ids.flatten(1).gather(1, chosen)
    alive = (scores > NEVER) & ~stays
    logprobs = kept.flatten(1).gather(1, chosen)
    parents = tree.last_level.start + beam
    unchanged = scores.masked_fill(scores > NEVER, 0.0)
    tree = tree.grow(
        token.masked_fill(stays, 0), parents, alive, torch.where(alive, logprobs, unchanged)
    )
    extendable = may_extend(tree, prefix, reserved)
    return tree, Beams(scores, stays | ~extendable)

"""How drafts are made: sampled trees and beams, level by level, with static shapes.

Each function feeds the drafter one level at a time and returns the `TokenTree` of what it proposed.
Nothing here reads a tensor back to the host.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mtad.lm import LM
from mtad.method import require, require_count
from mtad.noise import Noise, sample_many
from mtad.prefix import Prefix
from mtad.sampling import NEVER, Warper
from mtad.tree import TokenTree


def may_extend(tree: TokenTree, prefix: Prefix, reserved: int = 1) -> Bool[Tensor, "rows width"]:
    """Which nodes of the deepest level may have children: alive, no EOS, within the budget.

    The root may be an EOS: a prompt may end in one.
    """
    tokens = tree.tokens[:, tree.last_level]
    alive = tree.alive[:, tree.last_level] & prefix.may_draft(tree.depth + 1, reserved)[:, None]
    return alive if tree.depth == 0 else alive & ~prefix.is_eos(tokens)


def sampled_tree(
    lm: LM,
    prefix: Prefix,
    warp: Warper,
    noise: Noise,
    k_config: Sequence[int],
    replacement: bool = True,
) -> TokenTree:
    """A tree in which every node of level d has `k_config[d]` children drawn from its law.

    Args:
        lm, prefix, warp, noise: as in `Method.draft`.
        k_config: children per node, level by level; (1, 1, 1) is a chain of three tokens.
        replacement: whether siblings are independent draws or drawn without replacement, in
            draw order. Without replacement, children beyond the law's support are dead, and at
            temperature 0 the children are the most likely tokens.
    """
    tree = prefix.root()
    for depth, width in enumerate(k_config):
        logits = lm.forward_level(tree)
        law = warp(logits, tree, tree.last_level)
        draw = f"draft {depth}"
        if replacement:
            tokens = sample_many(law, noise.uniform(draw, *law.shape[1:2], width))
        else:
            scores = law + noise.gumbel(draw, *law.shape[1:])
            ranked = torch.where(warp.is_greedy, warp.raw(logits, tree, tree.last_level), scores)
            tokens = ranked.topk(min(width, law.shape[2]), dim=2).indices
        tree = _add_children(tree, prefix, tokens, law, warp.is_greedy)
    return tree


def _add_children(
    tree: TokenTree, prefix: Prefix, tokens: Tensor, law: Tensor, greedy: Tensor
) -> TokenTree:
    """The tree with `tokens` (B, width, k) below the nodes of its deepest level."""
    logprobs = law.gather(2, tokens)
    drawn = (logprobs > NEVER) | greedy
    alive = may_extend(tree, prefix)[:, :, None] & drawn
    start, width, k = tree.last_level.start, *tokens.shape[1:]
    parents = torch.arange(start, start + width, device=tokens.device).repeat_interleave(k)
    return tree.grow(
        tokens.flatten(1),
        parents.expand(tree.num_rows, -1),
        alive.flatten(1),
        torch.where(alive & (logprobs > NEVER), logprobs, 0.0).flatten(1),
        law,
    )


@dataclass(frozen=True)
class Beams:
    """The beams of one level, best first.

    Attributes:
        scores: (B, W) joint log-probability under the law drawn from; -inf for empty places.
        finished: (B, W) beams that ended in an EOS or met the budget; they stay as they are.
    """

    scores: Float[Tensor, "rows width"]
    finished: Bool[Tensor, "rows width"]


Selection = Literal["search", "sample", "sample_with_replacement", "all"]
Law = Literal["warped", "raw"]


def require_k_config(method: Any) -> None:
    """Refuse tree shapes that are empty or have levels without children."""
    shape = method.k_config
    listed = isinstance(shape, tuple | list) and len(shape) > 0
    ok = listed and all(isinstance(k, int) and k >= 1 for k in shape)
    require(ok, method, "k_config", "one or more integers >= 1, such as 4,2,2")


def num_tree_nodes(k_config: Sequence[int]) -> int:
    """Nodes of a tree with these children per level, root included."""
    return sum(math.prod(k_config[:depth]) for depth in range(len(k_config) + 1))


def require_beam_options(method: Any) -> None:
    """Refuse impossible options of MTAD and MMTAD."""
    selections = ("sample", "sample_with_replacement", "search")
    require_count(method, "num_draft_tokens")
    require_count(method, "beam_width")
    require(method.accept_threshold >= 0, method, "accept_threshold", "a number >= 0")
    require(method.ratio_on in ("warped", "raw"), method, "ratio_on", "'warped' or 'raw'")
    require(method.endpoint in ("sample", "greedy"), method, "endpoint", "'sample' or 'greedy'")
    require(method.beam in selections, method, "beam", f"one of {selections}")


def beams(
    lm: LM,
    prefix: Prefix,
    warp: Warper,
    noise: Noise,
    *,
    width: int,
    depth: int,
    selection: Selection,
    law: Law | Literal["searched"] = "warped",
    ratio_on: Law = "warped",
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
        selection: "search" keeps the best, "sample" draws without replacement from the pooled
            law, "sample_with_replacement" draws independently and merges equals, "all" keeps
            every candidate.
        law: what beams are scored and drawn by; "searched" is "warped", but "raw" in rows of
            temperature 0, whose warped law would leave a single candidate.
        ratio_on: the law whose log-probabilities the tree keeps.
        reserved: tokens of the budget kept for the endpoint.
    """
    tree = prefix.root()
    start = torch.zeros_like(tree.node_logprobs)
    state = Beams(start, ~may_extend(tree, prefix, reserved))
    for level in range(depth):
        logits = lm.forward_level(tree)
        drawn_from = _law(law, logits, tree, warp)
        kept = warp.ratio_law(ratio_on, drawn_from, logits, tree, tree.last_level)
        pool = _pool(state, drawn_from)
        chosen = _choose(pool, width, selection, warp, noise, f"beam {level}")
        tree, state = _advance(tree, prefix, state, *chosen, kept, reserved)
    return tree, state


def beam_tree(method: Any, lm: LM, prefix: Prefix, warp: Warper, noise: Noise) -> TokenTree:
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


def _law(law: str, logits: Tensor, tree: TokenTree, warp: Warper) -> Tensor:
    """The law of the deepest level that `law` names."""
    if law == "warped":
        return warp(logits, tree, tree.last_level)
    raw = warp.raw(logits, tree, tree.last_level)
    if law == "raw":
        return raw
    return torch.where(warp.is_greedy, raw, warp(logits, tree, tree.last_level))


def _pool(state: Beams, law: Tensor) -> Float[Tensor, "rows pool"]:
    """Scores of all (beam, token) candidates; a finished beam is its own token 0."""
    stay = torch.full_like(law[:, :1], NEVER)
    stay[:, :, 0] = 0.0
    step = torch.where(state.finished[:, :, None], stay, law)
    return (state.scores[:, :, None] + step).flatten(1)


def _choose(
    pool: Tensor, width: int, selection: Selection, warp: Warper, noise: Noise, tag: str
) -> tuple[Int[Tensor, "rows width"], Float[Tensor, "rows width"]]:
    """Indices and scores of the chosen candidates, best first, lowest index among equals.

    Which of equal candidates at the edge of the beam are kept is up to `topk`.
    """
    if selection == "all":
        return torch.arange(pool.shape[1], device=pool.device).expand(len(pool), -1), pool
    width = min(width, pool.shape[1])
    if selection == "sample_with_replacement":
        index = sample_many(pool.log_softmax(1), noise.uniform(tag, width)).sort(1).values
        repeated = index[:, 1:] == index[:, :-1]
        empty = torch.nn.functional.pad(repeated, (1, 0))
    else:
        index = _keys(pool, selection, warp, noise, tag).topk(width, dim=1).indices.sort(1).values
        empty = torch.zeros_like(index, dtype=torch.bool)
    scores = pool.gather(1, index).masked_fill(empty, NEVER)
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    return index.gather(1, order), scores


def _keys(pool: Tensor, selection: Selection, warp: Warper, noise: Noise, tag: str) -> Tensor:
    """What the best `width` are chosen by: Gumbel-perturbed scores draw without replacement."""
    if selection == "search":
        return pool
    return torch.where(warp.is_greedy[:, 0], pool, pool + noise.gumbel(tag, pool.shape[1]))


def _advance(
    tree: TokenTree,
    prefix: Prefix,
    state: Beams,
    chosen: Tensor,
    scores: Tensor,
    law: Tensor,
    reserved: int,
) -> tuple[TokenTree, Beams]:
    """The tree and the beams one level further down."""
    vocab = law.shape[2]
    beam, token = chosen // vocab, chosen % vocab
    stays = state.finished.gather(1, beam)
    alive = (scores > NEVER) & ~stays
    logprobs = law.flatten(1).gather(1, chosen)
    parents = tree.last_level.start + beam
    unchanged = scores.masked_fill(scores > NEVER, 0.0)
    tree = tree.grow(token, parents, alive, torch.where(alive, logprobs, unchanged))
    extendable = may_extend(tree, prefix, reserved)
    return tree, Beams(scores, stays | ~extendable)

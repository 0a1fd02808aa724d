"""Search over draft trees: the tree below a row's hypotheses, and the steps over its nodes.

Nothing here reads a tensor back to the host.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from mtad.core.noise import first_argmax
from mtad.core.prefix import Prefix
from mtad.core.tree import TokenTree
from mtad.model.drafter import Drafter
from mtad.sampling.truncation import NEVER
from mtad.sampling.warper import Warper
from mtad.speculative.drafting import Level, LevelLogprobs, may_extend
from mtad.speculative.hypotheses import Hypotheses, have_ended


def pending_tree(
    pending: Hypotheses, lm: Drafter, prefix: Prefix, warp: Warper, width: int
) -> TokenTree:
    """The hypotheses, text k in place k of every level, and beams of the draft below them.

    Beams are scored by log p of their hypothesis and log q of what was drafted below it.
    The tree has as many levels as the window; those that the hypotheses leave are drafted.

    Args:
        pending: at most `width` texts.
        lm, prefix, warp: as in `Method.draft`.
        width: nodes of a level.
    """
    tree, depth = prefix.root(), pending.depth[:, None]
    scores = pending.scores[:, pending.how.reference, None].masked_fill(depth > 0, NEVER)
    scores = scores.masked_fill(~may_extend(tree, prefix), NEVER)
    room = (0, width - pending.how.num_texts)
    followed = pending.open
    if pending.how.pinned:  # a twin has what follows it
        followed[:, -1] &= ~pending.twin.any(1)
    for level in range(1, pending.how.window + 1):
        said = Level.after(lm, tree, prefix, warp).raw
        drafted = _best(said, scores, width, tree.last_level.start)
        is_pending = level <= depth
        known = (
            pad(pending.tokens[:, :, level - 1], room),
            _places(tree, width),
            pad(pending.exist & (level <= pending.lengths), room),
            torch.zeros_like(drafted[3]),
            pad(pending.scores.masked_fill(~followed | (level < depth), NEVER), room, value=NEVER),
        )
        pairs = zip(known, drafted, strict=True)
        *nodes, scores = (torch.where(is_pending, held, drawn) for held, drawn in pairs)
        tree = tree.grow(*nodes)
        scores = scores.masked_fill(~may_extend(tree, prefix), NEVER)
    return tree


def _places(tree: TokenTree, width: int) -> Int[Tensor, "rows width"]:
    """Where the parents of a level's pending tokens are."""
    start, of_root = tree.last_level.start, tree.depth == 0
    places = torch.arange(width, device=tree.tokens.device).expand(tree.num_rows, -1)
    return torch.zeros_like(places) if of_root else start + places


def _best(
    said: LevelLogprobs, scores: Float[Tensor, "rows above"], width: int, start: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Tokens, parents, whether there is one, log q and score of a level's best continuations."""
    count = said.values.shape[2]
    pool = (scores[:, :, None] + said.values).flatten(1)
    best, chosen = pool.topk(min(width, pool.shape[1]), dim=1)
    room = (0, width - best.shape[1])
    best, chosen = pad(best, room, value=NEVER), pad(chosen, room)
    tokens = chosen % count if said.ids is None else said.ids.flatten(1).gather(1, chosen)
    exist = best > NEVER
    own = said.values.flatten(1).gather(1, chosen).masked_fill(~exist, 0.0)
    return tokens, start + chosen // count, exist, own, best


@dataclass(frozen=True)
class Search:
    """A search over the nodes of a tree.

    Attributes:
        texts: the best so far.
        nodes: (B, M) the deepest node on the way of each.
        reached: (B, M) whether that is where the text ends.
    """

    texts: Hypotheses
    nodes: Int[Tensor, "rows texts"]
    reached: Bool[Tensor, "rows texts"]

    @classmethod
    def begin(cls, pending: Hypotheses, width: int) -> Search:
        """From the hypotheses that a `pending_tree` of this width begins with."""
        places = torch.arange(pending.lengths.shape[1], device=pending.lengths.device)
        places = places.expand_as(pending.lengths)
        if pending.how.pinned:
            twin = pending.twin
            place = torch.where(twin.any(1), twin.int().argmax(1), places[:, -1])
            places = torch.cat([places[:, :-1], place[:, None]], dim=1)
        below = 1 + (pending.lengths - 1) * width + places
        nodes = torch.where(pending.lengths > 0, below, 0)
        texts = replace(pending, tokens=pad(pending.tokens, (0, 1)))
        return cls(texts, nodes, torch.ones_like(pending.ended))

    @property
    def going(self) -> Bool[Tensor, " rows"]:
        """Rows in which every text that goes on is a node, so that its next tokens are known."""
        is_open = self.texts.open
        return is_open.any(1) & (self.reached | ~is_open).all(1)

    def step(self, tree: TokenTree, prefix: Prefix, values: Tensor, ids: Tensor) -> Search:
        """One token further in the rows that are going; a text that has ended offers itself once.

        Of equal texts that of the better hypothesis and the lower token is kept.

        Args:
            tree: of the nodes.
            prefix: the committed text.
            values, ids: (B, N, C) log-probabilities and tokens of each node's best, by token.
        """
        texts, count = self.texts, values.shape[2]
        index = self.nodes[:, :, None].expand(-1, -1, count)
        offers = texts.scores.masked_fill(texts.ended, NEVER)[:, :, None] + values.gather(1, index)
        offers[:, :, 0] = torch.where(texts.ended, texts.scores, offers[:, :, 0])
        scores, place = self._chosen(offers)
        token = ids.gather(1, index).flatten(1).gather(1, place)
        before = texts.picked(place // count)
        stays, end = before.ended, before.lengths.clamp(max=before.tokens.shape[2] - 1)[:, :, None]
        kept = before.tokens.gather(2, end)[:, :, 0]
        tokens = before.tokens.scatter(2, end, torch.where(stays, kept, token)[:, :, None])
        lengths = before.lengths + ~stays
        ended = have_ended(prefix, tokens, lengths)
        node = self.nodes.gather(1, place // count)
        is_child = (tree.parents[:, None] == node[:, :, None]) & tree.alive[:, None]
        is_child = is_child & (tree.tokens[:, None] == token[:, :, None]) & ~stays[:, :, None]
        reached = is_child.any(2)
        nodes = torch.where(reached, is_child.int().argmax(2), node)
        return self._unless_going(tokens, lengths, scores, ended, nodes, reached)

    def _chosen(self, offers: Float[Tensor, "rows texts options"]) -> tuple[Tensor, Tensor]:
        """Scores and places of the K best of all offers, and of the pinned text's own best."""
        how, count = self.texts.how, offers.shape[2]
        pool = offers[:, : how.num].flatten(1).sort(dim=1, descending=True, stable=True)
        scores, place = (part[:, : how.num] for part in pool)
        if how.pinned:
            own = first_argmax(offers[:, -1])[:, None]
            scores = torch.cat([scores, offers[:, -1].gather(1, own)], dim=1)
            place = torch.cat([place, how.num * count + own], dim=1)
        return scores, place

    def _unless_going(self, *found: Tensor) -> Search:
        """What was found in the rows that are going, and what was there in the others."""
        old, going = self.texts, self.going[:, None]
        was = (old.tokens, old.lengths, old.scores, old.ended, self.nodes, self.reached)
        wide = (going[:, :, None], *[going] * 5)
        triples = zip(wide, found, was, strict=True)
        *texts, nodes, reached = (torch.where(*triple) for triple in triples)
        return Search(Hypotheses(old.how, *texts), nodes, reached)

"""Removing the tokens that a grammar excludes: one operation, and so a part of captured programs.

What may follow a node of a tree is a function of the path to it. Rows without a grammar keep all
their tokens; nodes that are not alive, or whose path breaks the grammar, too, as these are never
accepted. On a GPU the operation reads the tree, so that such iterations run eagerly. Knows no
model and no method.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mtad.core.prefix import NO_GRAMMAR, Prefix
from mtad.core.tree import TokenTree
from mtad.grammar.matcher import GrammarState, state_of
from mtad.sampling.truncation import NEVER


def masked(
    logits: Float[Tensor, "rows width tokens"],
    tree: TokenTree,
    prefix: Prefix,
    vocab: int,
    nodes: slice | None = None,
    token_ids: Int[Tensor, " tokens"] | None = None,
) -> Float[Tensor, "rows width tokens"]:
    """Logits, -inf for what the rows' grammars exclude.

    Args:
        logits: after `nodes` of the tree, all by default.
        tree: below the last token of the committed text.
        prefix: the committed text, which knows the grammars.
        vocab: V.
        nodes: of the tree.
        token_ids: the tokens that the logits are of; None where they are all.
    """
    if prefix.grammars is None:
        return logits
    allowed = allowed_tokens(tree, prefix.grammars, vocab, nodes).to(logits.device)
    if token_ids is not None:
        allowed = allowed.index_select(2, token_ids.to(logits.device))
    return logits.masked_fill(~allowed, NEVER)


def allowed_tokens(
    tree: TokenTree, grammars: Int[Tensor, " rows"], vocab: int, nodes: slice | None = None
) -> Bool[Tensor, "rows width vocab"]:
    """Which tokens may follow after nodes of a tree, all by default."""
    nodes = nodes or slice(0, tree.num_nodes)
    found: Tensor = _operation(
        grammars, tree.tokens, tree.parents, tree.alive, nodes.start, nodes.stop, vocab
    )
    return found


def _allowed_tokens(
    grammars: Tensor,
    tokens: Tensor,
    parents: Tensor,
    alive: Tensor,
    start: int,
    stop: int,
    vocab: int,
) -> Tensor:
    allowed = np.ones((len(grammars), stop - start, vocab), dtype=np.bool_)
    trees = zip(*(t.tolist() for t in (grammars, tokens, parents, alive)), strict=True)
    for row, (number, *tree) in enumerate(trees):
        if number != NO_GRAMMAR:
            _fill(allowed[row], state_of(number), tree, start)
    return torch.from_numpy(allowed).to(grammars.device)


def _fill(
    allowed: npt.NDArray[np.bool_], state: GrammarState, tree: Sequence[list[int]], start: int
) -> None:
    """Write what may follow after nodes from `start` on, of a tree's tokens, parents and life."""
    tokens, parents, alive = tree
    paths: list[tuple[int, ...] | None] = [()]
    for node in range(1, start + len(allowed)):
        above = paths[parents[node]] if alive[node] else None
        paths.append(None if above is None else (*above, tokens[node]))
    for place, path in enumerate(paths[start:]):
        found = None if path is None else state.allowed(path)
        if found is not None:
            allowed[place] = found


_library = torch.library.Library("mtad", "FRAGMENT")
# An operation of its own, so that a recorded iteration asks the grammar whenever it is replayed.
_library.define(
    "allowed_tokens(Tensor grammars, Tensor tokens, Tensor parents, Tensor alive, "
    "int start, int stop, int vocab) -> Tensor"
)
_library.impl("allowed_tokens", _allowed_tokens, "CompositeExplicitAutograd")
_operation: Any = torch.ops.mtad.allowed_tokens.default

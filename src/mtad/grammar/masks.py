"""Removing the tokens that a grammar excludes: an operation, and so a part of captured programs.

What may follow a node of a tree is a function of the path to it. Rows without a grammar keep all
their tokens; nodes that are not alive, or whose path breaks the grammar, too, as these are never
accepted. On a GPU it reads the tree, so that such iterations run eagerly. Knows no
model and no method.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mtad.core.prefix import NO_GRAMMAR, Prefix
from mtad.core.tree import TokenTree
from mtad.grammar.matcher import state_of
from mtad.sampling.truncation import NEVER


def exclude(
    logits: Float[Tensor, "rows width tokens"],
    tree: TokenTree,
    prefix: Prefix,
    nodes: slice | None = None,
    token_ids: Int[Tensor, " tokens"] | None = None,
) -> None:
    """Make the logits -inf, in place, of what the rows' grammars exclude.

    Args:
        logits: after `nodes` of the tree, all by default.
        tree: below the last token of the committed text.
        prefix: the committed text, which knows the grammars.
        nodes: of the tree.
        token_ids: the tokens that the logits are of; None where they are all.
    """
    if prefix.grammars is not None:
        start = 0 if nodes is None else nodes.start
        _exclude(logits, prefix.grammars, tree.tokens, tree.parents, tree.alive, token_ids, start)


def may_follow(
    tokens: Int[Tensor, "rows width"],
    tree: TokenTree,
    grammars: Int[Tensor, " rows"],
) -> Bool[Tensor, "rows width"]:
    """Whether the grammars allow these tokens after the nodes of the deepest level."""
    start = tree.last_level.start
    found: Tensor = _may_follow(tokens, grammars, tree.tokens, tree.parents, tree.alive, start)
    return found


def forced_tokens(
    grammars: Int[Tensor, " rows"], width: int
) -> tuple[Int[Tensor, "rows width"], Bool[Tensor, "rows width"]]:
    """What must follow the committed texts, `width` tokens of each at most, and which are there."""
    tokens: Tensor
    tokens, there = _forced(grammars, width)
    return tokens, there


_Excluded: TypeAlias = npt.NDArray[np.bool_]


def _excluded(
    grammars: Tensor, tokens: Tensor, parents: Tensor, alive: Tensor, start: int
) -> Iterator[tuple[int, int, _Excluded]]:
    """Rows and nodes from `start` on, counted from there, with the tokens that may not follow."""
    trees = zip(*(t.tolist() for t in (grammars, tokens, parents, alive)), strict=True)
    for row, (number, line, above, is_alive) in enumerate(trees):
        if number == NO_GRAMMAR:
            continue
        state = state_of(number)
        paths: list[tuple[int, ...] | None] = [()]
        for node in range(1, len(line)):
            path = paths[above[node]] if is_alive[node] else None
            paths.append(None if path is None else (*path, line[node]))
        for place, path in enumerate(paths[start:]):
            found = None if path is None else state.excluded(path)
            if found is not None:
                yield row, place, found


def _exclude_here(
    logits: Tensor,
    grammars: Tensor,
    tokens: Tensor,
    parents: Tensor,
    alive: Tensor,
    token_ids: Tensor | None,
    start: int,
) -> None:
    ids = None if token_ids is None else token_ids.numpy(force=True)
    for row, place, found in _excluded(grammars, tokens, parents, alive, start):
        mask = torch.from_numpy(found if ids is None else found[ids])
        logits[row, place].masked_fill_(mask.to(logits.device), NEVER)


def _may_follow_here(
    wanted: Tensor,
    grammars: Tensor,
    tokens: Tensor,
    parents: Tensor,
    alive: Tensor,
    start: int,
) -> Tensor:
    may = np.ones(wanted.shape, dtype=np.bool_)
    asked = wanted.tolist()
    for row, place, found in _excluded(grammars, tokens, parents, alive, start):
        may[row, place] = not found[asked[row][place]]
    return torch.from_numpy(may).to(wanted.device)


def _forced_here(grammars: Tensor, width: int) -> tuple[Tensor, Tensor]:
    numbers = grammars.tolist()
    rows = [[] if n == NO_GRAMMAR else state_of(n).forced()[:width] for n in numbers]
    tokens = [[*row, *[0] * (width - len(row))] for row in rows]
    there = [[place < len(row) for place in range(width)] for row in rows]
    device = grammars.device
    ids = torch.tensor(tokens, dtype=torch.int64, device=device)
    return ids, torch.tensor(there, dtype=torch.bool, device=device)


_library = torch.library.Library("mtad", "FRAGMENT")
# Operations of their own, so that a recorded iteration asks the grammar whenever it is replayed.
_TREE = "Tensor grammars, Tensor tokens, Tensor parents, Tensor alive"
_library.define(f"exclude(Tensor(a!) logits, {_TREE}, Tensor? token_ids, int start) -> ()")
_library.define(f"may_follow(Tensor wanted, {_TREE}, int start) -> Tensor")
_library.define("forced(Tensor grammars, int width) -> (Tensor, Tensor)")
_library.impl("exclude", _exclude_here, "CompositeExplicitAutograd")
_library.impl("may_follow", _may_follow_here, "CompositeExplicitAutograd")
_library.impl("forced", _forced_here, "CompositeExplicitAutograd")
_exclude: Any = torch.ops.mtad.exclude.default
_may_follow: Any = torch.ops.mtad.may_follow.default
_forced: Any = torch.ops.mtad.forced.default

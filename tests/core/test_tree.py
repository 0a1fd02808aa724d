"""What a tree knows of its shape: levels and depths, made once."""

from __future__ import annotations

import pytest
import torch
from support.recorder import Interceptor

from mtad.core.tree import TokenTree

SHAPES = [(1,), (1, 1, 1, 1), (1, 4, 4, 4), (1, 4, 8, 16), (1, 3, 2), (1, 2, 1)]


def grown(widths: tuple[int, ...], device: str = "cpu") -> TokenTree:
    """A tree of two rows whose nodes hang below the first node of the level above."""
    zeros = torch.zeros(2, dtype=torch.int64, device=device)
    tree = TokenTree.root(zeros, zeros)
    for width in widths[1:]:
        tokens = torch.zeros(2, width, dtype=torch.int64, device=device)
        parents = torch.full_like(tokens, tree.last_level.start)
        tree = tree.grow(tokens, parents, tokens == 0, tokens.float())
    return tree


@pytest.mark.parametrize("widths", SHAPES, ids=str)
def test_levels_and_depths_follow_from_the_widths(widths: tuple[int, ...]) -> None:
    tree = grown(widths)
    expected = [depth for depth, width in enumerate(widths) for _ in range(width)]
    assert tree.depths.tolist() == expected
    assert tree.levels[-1] == tree.last_level
    assert [i for level in tree.levels for i in range(level.start, level.stop)] == [
        *range(tree.num_nodes)
    ]
    assert (tree.ancestors.sum(2) - 1).tolist() == [expected] * 2


@pytest.mark.parametrize("widths", SHAPES, ids=str)
def test_depths_are_made_once_and_on_the_trees_device(widths: tuple[int, ...]) -> None:
    tree, ran = grown(widths, "meta"), []

    def note(function, args, kwargs, run):
        ran.append(function)
        return run()

    with Interceptor(note):
        assert tree.depths.device.type == "meta"
        made = len(ran)
        assert tree.depths is tree.depths
        assert tree.levels is tree.levels
    assert len(ran) == made > 0

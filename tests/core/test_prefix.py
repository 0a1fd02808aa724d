"""The committed text, by hand."""

from __future__ import annotations

import torch

from mtad.core.prefix import Prefix


def test_tokens_before_the_last_one_are_those_before_it() -> None:
    tokens = torch.tensor([[5, 6, 7, 8, 0], [9, 4, 0, 0, 0]], dtype=torch.int64)
    ones = torch.ones(2, dtype=torch.int64)
    lengths = torch.tensor([4, 2], dtype=torch.int64)
    prefix = Prefix(tokens, lengths, ones, ones, ones[:, None], 1)
    assert prefix.before_last(2).tolist() == [[6, 7], [9, 9]]
    assert prefix.before_last(4).tolist() == [[5, 5, 6, 7], [9, 9, 9, 9]]


def test_what_is_appended_lies_after_the_text_and_ends_with_the_table() -> None:
    tokens = torch.tensor([[5, 6, 7, 8, 0], [9, 0, 0, 0, 0]], dtype=torch.int64)
    ones = torch.ones(2, dtype=torch.int64)
    prefix = Prefix(tokens, torch.tensor([4, 1]), ones, ones, ones[:, None], 1)
    block = torch.tensor([[1, 2, 3], [1, 2, 3]], dtype=torch.int64)
    longer = prefix.append(block, torch.tensor([3, 2]))
    assert longer.tokens.tolist() == [[5, 6, 7, 8, 1], [9, 1, 2, 0, 0]]
    assert longer.lengths.tolist() == [7, 3]

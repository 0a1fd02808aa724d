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

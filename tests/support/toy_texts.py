"""Texts of the toy pair: their exact law, and each lossless method with small drafts."""

from __future__ import annotations

from functools import cache
from typing import Any

from support import oracles
from support.oracles import Blocks, Text

from mtad.testing import TOY_DRAFT, TOY_START, TOY_TARGET

EMPTY: Text = (TOY_START,)
P, Q = oracles.markov(TOY_TARGET), oracles.markov(TOY_DRAFT)
LENGTH = 4

ONE_EACH: list[tuple[str, dict[str, Any]]] = [
    ("autoregressive", {}),
    ("speculative_sampling", {"num_draft_tokens": 3}),
    ("block_verification", {"num_draft_tokens": 3}),
    ("spectr", {"num_drafts": 2, "num_draft_tokens": 2}),
    ("specinfer", {"k_config": (2, 2)}),
    ("mcss", {"k_config": (2, 2)}),
    ("mcss", {"k_config": (2, 2), "replacement": "naive"}),
    ("prompt_lookup", {"num_draft_tokens": 2}),
]


@cache
def plain_law() -> Blocks:
    """The probability of every text of LENGTH tokens."""
    return oracles.text_law(P, EMPTY, LENGTH)

"""The receipt of rules that keep a draft token by another test than speculative sampling's."""

from __future__ import annotations

from typing import Any

import pytest
from support.toys import H_DRAFT, H_TARGET, MarkovPair, make, requests_of

from mtad.engine.decode import decode

START = (4,)
METHODS: list[tuple[str, dict[str, Any]]] = [
    ("mtad", {"accept_threshold": 0.4, "num_draft_tokens": 3}),
    ("mtad", {"accept_threshold": 0.4, "num_draft_tokens": 3, "ratio_on": "raw"}),
    ("mmtad", {"accept_threshold": 0.4, "num_draft_tokens": 3}),
    ("typical_acceptance", {"num_draft_tokens": 3}),
    ("bild", {"fallback_threshold": 0.3, "rollback_threshold": 2.0, "num_draft_tokens": 3}),
    ("fly", {"entropy_threshold": 0.0, "window": 1, "num_draft_tokens": 3}),
]


@pytest.mark.parametrize(("name", "options"), METHODS)
def test_the_largest_overshoot_of_the_draft_tokens_in_the_text(
    name: str, options: dict[str, Any]
) -> None:
    """Of all that were accepted so far, endpoint tokens left out; it never falls."""
    pair, method = MarkovPair.of(H_TARGET, H_DRAFT), make(name, **options)
    last, largest = [START[0]] * 12, [0.0] * 12
    for step in decode(
        pair.target, pair.draft, method, requests_of([START] * 12, max_new_tokens=12), pair.vocab
    ):
        for block in step.blocks:
            row = block.request
            for i, token in enumerate(block.token_ids):
                if i < block.num_accepted:
                    ratio = H_TARGET[last[row]][token] / H_DRAFT[last[row]][token]
                    largest[row] = max(largest[row], 1 - ratio)
                last[row] = token
            assert block.receipt == {"largest_overshoot": pytest.approx(largest[row], abs=1e-5)}
    assert max(largest) > 0.1 and len({*largest}) > 1


@pytest.mark.parametrize("name", ["typical_acceptance", "bild"])
def test_a_token_that_truncation_removes_from_the_target_is_all_overshoot(name: str) -> None:
    """Token 2 is not among the target's two most likely ones, and is kept by its raw law."""
    pair = MarkovPair.everywhere([0.4, 0.35, 0.25], [0.1, 0.15, 0.75])
    requests = requests_of([(0,)], max_new_tokens=9, top_k=2)
    [*_, end] = decode(pair.target, pair.draft, make(name), requests, pair.vocab)
    assert end.blocks[0].receipt == {"largest_overshoot": 1.0}


@pytest.mark.parametrize(("name", "options"), METHODS)
def test_nothing_is_overshot_where_the_draft_is_the_target(
    name: str, options: dict[str, Any]
) -> None:
    pair = MarkovPair.of(H_TARGET, H_TARGET)
    requests = requests_of([START], max_new_tokens=9)
    [*_, end] = decode(pair.target, pair.draft, make(name, **options), requests, pair.vocab)
    assert end.blocks[0].receipt == {"largest_overshoot": pytest.approx(0, abs=1e-5)}

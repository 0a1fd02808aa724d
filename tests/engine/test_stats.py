"""The formulas, on blocks written by hand."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from mtad.engine.session import Block
from mtad.engine.stats import Stats, total


def block(num_tokens: int, accepted: int, drafted: int = 4, depth: int = 4) -> Block:
    return Block(0, tuple(range(num_tokens)), accepted, drafted, depth, None)


def stats_of(*blocks: Block, prefill_s: float = 1.0, decode_s: float = 2.0) -> Stats:
    stats = Stats(prefill_s=prefill_s, decode_s=decode_s)
    for one in blocks:
        stats.add(one)
    return stats


CHAIN = stats_of(block(5, 4), block(1, 0), block(3, 2), block(2, 2))
"""Four steps of a chain of 4; the last one is cut by the budget before its endpoint."""


def test_counts() -> None:
    assert CHAIN.num_spec_steps == 4
    assert CHAIN.num_draft_tokens == CHAIN.num_spec_tokens == 16
    assert CHAIN.num_accepted_draft_tokens == 8
    assert CHAIN.num_output_tokens == 11
    assert CHAIN.acceptance_histogram == {4: 1, 0: 1, 2: 2}


def test_rates() -> None:
    assert CHAIN.mean_acceptance_length == 1 + 8 / 4
    assert CHAIN.draft_acceptance_rate == 8 / 16
    assert CHAIN.path_acceptance_rate == 8 / 16
    assert CHAIN.acceptance_rate_per_position == [3 / 4, 3 / 4, 1 / 4, 1 / 4]
    assert CHAIN.conditional_acceptance_rate_per_position == [3 / 4, 1, 1 / 3, 1]
    assert CHAIN.output_tokens_per_second == 11 / 2
    assert CHAIN.end_to_end_tokens_per_second == 11 / 3


def test_a_tree_has_two_rates() -> None:
    tree = stats_of(block(3, 2, drafted=28, depth=3), block(1, 0, drafted=28, depth=3))
    assert tree.draft_acceptance_rate == 2 / 56
    assert tree.path_acceptance_rate == 2 / 6


def test_the_sum_over_positions_is_the_mean_acceptance_length() -> None:
    assert 1 + sum(CHAIN.acceptance_rate_per_position) == CHAIN.mean_acceptance_length


def test_nothing_drafted_is_none_and_not_zero() -> None:
    plain = stats_of(block(1, 0, 0, 0), block(1, 0, 0, 0))
    assert plain.mean_acceptance_length == 1
    assert plain.draft_acceptance_rate is None
    assert plain.path_acceptance_rate is None
    assert plain.acceptance_rate_per_position == []


def test_nothing_decoded_has_no_rates() -> None:
    empty = Stats().as_dict()
    assert empty["mean_acceptance_length"] is None
    assert empty["output_tokens_per_second"] is None
    assert empty["end_to_end_tokens_per_second"] is None
    json.dumps(empty, allow_nan=False)


def test_as_dict_is_json_with_the_histogram_in_order() -> None:
    again = json.loads(json.dumps(CHAIN.as_dict(), allow_nan=False))
    assert list(again["acceptance_histogram"].items()) == [("0", 1), ("2", 2), ("4", 1)]
    assert again["mean_acceptance_length"] == CHAIN.mean_acceptance_length


def test_total() -> None:
    both = total([CHAIN, stats_of(block(2, 1), decode_s=3.0)])
    assert both.num_spec_steps == 5
    assert both.acceptance_histogram == {4: 1, 0: 1, 2: 2, 1: 1}
    assert both.prefill_s == 2 and both.decode_s == 5
    assert both.mean_acceptance_length == pytest.approx(1 + 9 / 5)
    shared = total([CHAIN, CHAIN], wall_s=2.0)
    assert (shared.prefill_s, shared.decode_s) == (0.0, 2.0)
    assert shared.output_tokens_per_second == shared.end_to_end_tokens_per_second == 11
    assert CHAIN.num_spec_steps == 4, "the parts are left alone"
    assert total([]).mean_acceptance_length is None


def test_what_a_method_keeps_is_the_last_of_a_text_and_the_sum_over_texts() -> None:
    texts = [
        stats_of(*(replace(block(3, 2), receipt={"regret": spent}) for spent in spends))
        for spends in ([0.25, 0.25, 0.5], [1.0], [])
    ]
    assert [text.receipt for text in texts] == [{"regret": 0.5}, {"regret": 1.0}, {}]
    assert total(texts).receipt == {"regret": 1.5}
    others = [Stats(kept={"largest_overshoot": found}) for found in (0.25, 0.5, 0.125)]
    assert total([*texts, *others]).receipt == {"regret": 1.5, "largest_overshoot": 0.5}
    assert texts[0].as_dict()["receipt"] == {"regret": 0.5}
    assert Stats.of(json.loads(json.dumps(texts[0].counts()))) == texts[0]


def test_counts_come_back_from_json() -> None:
    stats = Stats(num_spec_steps=3, num_draft_tokens=8, num_accepted_draft_tokens=5)
    stats.num_spec_tokens, stats.num_output_tokens = 8, 8
    stats.prefill_s, stats.decode_s = 0.5, 2.0
    stats.acceptance_histogram.update({1: 1, 4: 1, 0: 1})
    back = Stats.of(json.loads(json.dumps(stats.counts())))
    assert back == stats
    assert back.as_dict() == stats.as_dict()

"""The doctor's verdict on pairs whose costs and acceptance are given."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mtad.advice.acceptance import Counts, counts_by_kind, total
from mtad.advice.timing import quickest, speed_ratio
from mtad.advice.verdict import Evidence, judge, mismatched
from mtad.api.costs import tokens_by_length
from mtad.api.paying import chains
from mtad.api.turns import Timed
from mtad.bench.statistics import Estimate
from mtad.engine.step import Block

FLAT = (1.0, 1.02, 1.04, 1.06, 1.08, 1.1, 1.12, 1.14, 1.16)
STEEP = tuple(1.0 + 0.9 * n for n in range(9))


def evidence(
    draft_s: float = 0.05,
    target_s: tuple[float, ...] = FLAT,
    rate: float = 0.7,
    measured: Estimate | None = None,
    asked: int = 4,
    **by_kind: float,
) -> Evidence:
    """That of a chain accepted with the same rate at each position, and of nothing else."""
    prospect, rates = chains(draft_s, target_s), [rate] * (len(target_s) - 1)
    kinds = {kind: [one] * len(rates) for kind, one in by_kind.items()}
    offers = {"speculative_sampling": prospect.best(tokens_by_length(rates))}
    speeds = {} if measured is None else {"speculative_sampling": measured}
    return Evidence(prospect, rates, kinds, offers, {}, speeds, asked)


def test_a_good_draft_pays() -> None:
    found = judge(evidence())
    assert (found.pays, found.reason) == (True, None)
    assert "speculative_sampling with drafts of" in found.sentence


@pytest.mark.parametrize(
    ("reason", "given", "words"),
    [
        ("dear", {"draft_s": 0.9}, "takes 90% of a target forward"),
        ("poor", {"rate": 0.05}, "5% of the first draft tokens are accepted, and it would pay"),
        ("not flat", {"target_s": STEEP, "draft_s": 0.01}, "2 tokens takes 1.90 times as long"),
    ],
)
def test_the_reason_is_what_would_have_to_be_otherwise(reason, given, words) -> None:
    found = judge(evidence(**given))
    assert (found.pays, found.reason) == (False, reason)
    assert words in found.sentence and found.next


def test_a_poor_draft_is_not_blamed_for_what_no_draft_could_mend() -> None:
    assert judge(evidence(draft_s=0.9, rate=0.05)).reason == "dear"
    assert judge(evidence(draft_s=0.9, target_s=STEEP, rate=0.05)).reason == "not flat"


def test_the_measurement_has_the_last_word() -> None:
    slow = judge(evidence(measured=Estimate(0.8, 0.75, 0.85, 8)))
    assert (slow.pays, slow.reason) == (False, "overhead")
    assert "0.80 [0.75, 0.85] times as fast" in slow.sentence
    unsure = judge(evidence(measured=Estimate(1.02, 0.95, 1.1, 8)))
    assert (unsure.pays, unsure.reason) == (None, None) and "not shown" in unsure.sentence
    better = judge(evidence(draft_s=0.9, measured=Estimate(1.3, 1.2, 1.4, 8)))
    assert better.pays, "costs may be wrong"


def test_a_draft_that_is_too_long_is_named_beside_one_that_pays() -> None:
    found = judge(evidence(draft_s=0.2, rate=0.5, asked=8))
    assert (found.pays, found.reason) == (True, "too long")
    assert "drafts of 8 tokens are too long" in found.sentence
    assert judge(evidence(draft_s=0.2, rate=0.5, asked=1)).reason is None


def test_kinds_on_which_it_loses_are_named() -> None:
    found = judge(evidence(sql=0.9, stories=0.01))
    assert found.pays and "not expected to on stories" in found.sentence
    assert "guard" in found.next[0]


def test_without_a_draft_one_is_to_be_made() -> None:
    known = evidence(rate=0.0)
    costs = replace(known.prospect.costs, draft=None)
    found = judge(replace(known, prospect=replace(known.prospect, costs=costs)))
    assert (found.pays, found.reason) == (False, "no draft") and "mtad distill" in found.next[0]


def test_a_method_without_draft_is_the_next_thing_where_it_is_faster() -> None:
    known = evidence(draft_s=0.9)
    copying = {"prompt_lookup": chains(1e-6, FLAT).best_at(0.3)}
    found = judge(replace(known, others=copying))
    assert (found.pays, found.reason) == (False, "dear"), "the verdict is on the draft"
    assert found.next[0].startswith("--method prompt_lookup, which needs no draft: 1.3")
    slower = {"prompt_lookup": Estimate(0.9, 0.8, 1.0, 8)}
    assert "prompt_lookup" not in judge(replace(known, others=copying, measured=slower)).next[0]
    assert not judge(replace(evidence(), others=copying)).next, "the draft is faster"


def test_a_mismatched_draft_is_said_to_be_one() -> None:
    found = mismatched("5 of 300 token ids differ")
    assert (found.pays, found.reason) == (False, "mismatched")
    assert "5 of 300 token ids differ" in found.sentence


def block(tokens: int, accepted: int, depth: int, reason: str | None = None) -> Block:
    return Block(0, tuple(range(tokens)), accepted, depth, depth, reason)


def test_positions_are_counted_as_far_as_a_draft_got() -> None:
    counts = Counts(3)
    counts.add([block(1, 0, 3), block(3, 2, 3), block(4, 3, 3)])
    assert (counts.reached, counts.accepted) == ([3, 2, 2], [2, 2, 1])
    assert counts.rates == pytest.approx((2 / 3, 1.0, 0.5))
    assert counts.tokens == pytest.approx([1, 1 + 2 / 3, 1 + 4 / 3, 1 + 5 / 3])


def test_what_the_end_of_a_text_cut_off_is_not_refused() -> None:
    counts = Counts(3)
    counts.add([block(2, 2, 3, "stop")])  # an EOS among the accepted ones
    counts.add([block(2, 1, 1, "length")])  # no room for a longer draft
    assert (counts.reached, counts.accepted) == ([2, 1, 0], [2, 1, 0])
    counts.add([block(1, 0, 3, "length")])
    assert counts.reached[0] == 3, "this one was refused"
    counts.add([block(1, 0, 0)])
    assert counts.reached[0] == 4, "and this one was not there"


def test_kinds_add_up() -> None:
    texts = [[block(1, 0, 2)], [block(3, 2, 2)], [block(2, 1, 2)]]
    found = counts_by_kind(["sql", "chat", "sql"], texts, 2)
    assert found["sql"].accepted == [1, 0] and found["chat"].accepted == [1, 1]
    assert total(found.values(), 2).accepted == [2, 1]


def test_speeds_are_those_of_the_quickest_rounds() -> None:
    plain = [[Timed(10, 1.0, 10), Timed(20, 2.0, 20)], [Timed(10, 3.0, 10), Timed(20, 2.0, 20)]]
    fast = [[Timed(10, 0.5, 4), Timed(20, 9.0, 8)], [Timed(10, 0.9, 4), Timed(20, 1.0, 8)]]
    found = speed_ratio(quickest(fast), quickest(plain))
    assert found.value == pytest.approx(2.0) and found.low == pytest.approx(2.0)

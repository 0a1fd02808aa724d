"""The controller in a world of made-up rates and seconds: what it chooses, and what it costs."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import pytest
from support.simulated import World, controller, pair_costs

from mtad.api import controller as module
from mtad.api.controller import SHARE, Controller
from mtad.api.costs import Costs, Widths
from mtad.api.experience import ALLOWANCE, Acceptance, Corrections, Experience
from mtad.methods.specinfer import SpecInfer

CHAIN = [(1,) * length for length in range(9)]
LOSS = 1.03
"""What a whole run may take, in plain decoding's seconds, the first text included."""


def always(rate: float):
    return lambda place, depth: rate


def seconds_of(world: World, num_tokens: int, texts: int = 1, length: int = 8) -> float:
    """Seconds a token over several texts of a new pair, where a plain step takes one."""
    known = Experience(world.costs)
    total = sum(
        world.decode(controller(world.costs, length, known), num_tokens)[0] for _ in range(texts)
    )
    return total / (num_tokens * texts)


WORLDS = {
    "useless": (pair_costs(0.05), always(0.0)),
    "useless and dearer": (pair_costs(0.2), always(0.02)),
    "useless, with a cache": (pair_costs(0.2, reads_text=True), always(0.0)),
    "useless and dear": (pair_costs(0.4), always(0.0)),
    "poor": (pair_costs(0.1, reads_text=True), always(0.2)),
    "dear": (pair_costs(0.5, reads_text=True), always(0.8)),
    "very dear": (pair_costs(1.0, reads_text=True), always(0.95)),
    "dear to verify": (pair_costs(0.02, node=0.6), always(0.5)),
    "good": (pair_costs(0.05), always(0.8)),
}


@pytest.mark.slow
@pytest.mark.parametrize("num_tokens", [40, 256])
@pytest.mark.parametrize("name", WORLDS)
def test_no_run_is_much_slower_than_plain_decoding(name: str, num_tokens: int) -> None:
    costs, rates = WORLDS[name]
    for seed in range(6):
        assert seconds_of(World(costs, rates, seed=seed), num_tokens) <= LOSS
        assert seconds_of(World(costs, rates, seed=seed), num_tokens, texts=4) <= LOSS


@pytest.mark.parametrize("rate", [0.5, 0.8, 0.95])
def test_a_good_draft_is_about_as_fast_as_the_best_fixed_length(rate: float) -> None:
    costs = pair_costs(0.05)
    best = min(
        _fixed(World(costs, always(rate), seed=seed), length)
        for length in (2, 3, 4, 6, 8)
        for seed in range(2)
    )
    chosen = [seconds_of(World(costs, always(rate), seed=s), 256, texts=3) for s in range(4)]
    assert sum(chosen) / len(chosen) <= 1.12 * best


def _fixed(world: World, drafts: int | SpecInfer) -> float:
    shape = controller(world.costs, drafts).shapes[-1]
    seconds, made = 0.0, 0
    while made < 1500:
        seconds += world.seconds(shape)
        made += 1 + world.accepted(shape, made)
    return seconds / made


def test_lengths_follow_the_text_within_a_few_blocks() -> None:
    """Stretches that are copied, between others that are not."""
    world = World(pair_costs(0.05), lambda place, depth: 0.95 if place % 200 >= 100 else 0.1)
    control = controller(world.costs, 8)
    made, by_kind = 0, {True: [], False: []}
    while made < 1600:
        shape = control.choose(1)
        tokens = 1 + world.accepted(shape, made)
        control.add([tokens], world.seconds(shape))
        if made % 100 > 30:  # the first ones of a stretch are those in which it learns
            by_kind[made % 200 >= 100].append(shape.length)
        made += tokens
    easy, hard = (sum(found) / len(found) for found in (by_kind[True], by_kind[False]))
    assert easy > 4 > 1.5 > hard


def test_it_drafts_less_the_more_rows_there_are() -> None:
    """A further token costs a tenth of a plain step, so that sixteen rows leave no time."""
    costs, lengths = pair_costs(0.05, node=0.1), []
    for num_rows in (1, 4, 16):
        control = controller(costs, 8, _known(costs, rate=0.6))
        lengths.append(control.choose(num_rows).length)
    assert lengths == sorted(lengths, reverse=True) and lengths[0] > lengths[-1]
    assert lengths[0] >= 2


def _known(costs: Costs, rate: float) -> Experience:
    """Experience of a long text that was drafted well enough to have a balance."""
    known = Experience(costs, balance=2.0)
    for block in range(200):
        known.acceptance.add(
            CHAIN[8], [next(i for i in range(9) if i == 8 or (block * 7 + i) % 10 >= 10 * rate)]
        )
    return known


def test_rows_count_by_their_mean() -> None:
    rates = Acceptance(keeps=1.0, weight=1e-9)
    rates.add(CHAIN[2], [2, 0])
    rates.add(CHAIN[2], [1, 0])
    assert rates.rates(CHAIN[2]) == pytest.approx([0.5, 0.5])


def test_positions_that_were_not_seen_are_like_the_one_before() -> None:
    rates = Acceptance(keeps=1.0, weight=1.0)
    for _ in range(50):
        rates.add(CHAIN[1], [1])
    first, second, third = rates.rates(CHAIN[3])
    assert first > 0.98 and first == second == third
    assert rates.rates(CHAIN[2], [0.2, 0.1])[1] == pytest.approx((first + 0.1) / 2, abs=0.01)


def test_what_was_accepted_long_ago_counts_little() -> None:
    rates = Acceptance(keeps=0.85, weight=1.0)
    for _ in range(100):
        rates.add(CHAIN[1], [1])
    for _ in range(6):
        rates.add(CHAIN[1], [0])
    assert rates.rates(CHAIN[1])[0] < 0.45


def test_costs_that_the_forwards_do_not_show_are_learnt() -> None:
    """Drafted iterations take half as long again: an acceptance of 0.3 is too low."""
    world = World(pair_costs(0.05), always(0.3), overhead=0.5)
    known = Experience(world.costs)
    for _ in range(3):
        world.decode(controller(world.costs, 4, known), 256)
    seconds, lengths = world.decode(controller(world.costs, 4, known), 256)
    assert seconds <= LOSS * 256 and lengths.count(0) > 200


def test_single_slow_iterations_teach_nothing() -> None:
    learnt = Corrections()
    for drafted, plain in [(1.0, 1.0)] * 4 + [(3.0, 1.0), (1.0, 3.0), (3.0, 1.0)]:
        learnt.compare(CHAIN[2], drafted, plain)
    assert learnt.factor(CHAIN[2]) == learnt.factor(CHAIN[4]) == 1.0 == learnt.factor(())
    for _ in range(9):
        learnt.compare(CHAIN[2], 1.5, 1.0)
    assert learnt.factor(CHAIN[2]) == pytest.approx(1.5)
    assert learnt.copy().factor(CHAIN[2]) == pytest.approx(1.5)


def test_times_of_different_kinds_are_not_compared() -> None:
    """An eager plain step says nothing of drafts that are replayed, and a capture of nothing."""
    known = Experience(pair_costs(0.05))
    control = controller(known.costs, 4, known)
    for _ in range(60):
        shape = control.choose(1)
        mode = "captured" if shape.length else "eager"
        control.add(
            [1 + shape.length], known.costs.of(shape, 1) * (0.2 if shape.length else 1), mode
        )
    assert all(c.factor(CHAIN[4]) == 1.0 for c in known.corrections.values())
    for _ in range(60):
        shape = control.choose(1)
        control.add([1 + shape.length], 50.0 if shape.length else 1.0, "capturing")
    assert all(c.factor(CHAIN[4]) == 1.0 for c in known.corrections.values())


def test_the_reason_tells_what_a_draft_would_take_and_give() -> None:
    hopeless = controller(pair_costs(1.5), 4)
    assert hopeless.is_hopeless and hopeless.choose(1).length == 0
    assert hopeless.reason is not None
    assert hopeless.reason.startswith("plain decoding: a draft of 1 token would take 2.52 times as")
    world = World(pair_costs(0.2), always(0.0))
    control = controller(world.costs, 4)
    world.decode(control, 40)
    assert control.reason is not None and "plain step, for 1." in control.reason


def test_drafting_is_tried_again_now_and_then() -> None:
    world = World(pair_costs(0.05), always(0.0))
    _, lengths = world.decode(controller(world.costs, 4), 600)
    last = [place for place, length in enumerate(lengths) if length]
    gaps = [b - a for a, b in pairwise(last)]
    assert 600 - last[-1] <= 18 and max(gaps) <= 18 and gaps[-1] > 12


# --- trees ------------------------------------------------------------------------------------

TREE = SpecInfer(k_config=(4, 2, 2))


def widths_of(world: World, num_tokens: int = 512) -> Counter[Widths]:
    """What a controller of trees chooses, once it has seen a text."""
    known = Experience(world.costs)
    world.decode(controller(world.costs, TREE, known), num_tokens)
    control, chosen, made = controller(world.costs, TREE, known), Counter[Widths](), 0
    while made < num_tokens:
        shape = control.choose(1)
        accepted, num_first = world.block(shape, made)
        control.add([1 + accepted], world.seconds(shape), firsts=[num_first])
        chosen[shape.widths] += 1
        made += 1 + accepted
    return chosen


def test_trees_are_as_wide_as_further_tokens_are_cheap() -> None:
    free, fair, dear = (
        widths_of(World(pair_costs(0.02, node), always(0.4))).most_common(1)[0][0]
        for node in (0.0, 0.04, 0.3)
    )
    assert free == (4, 2, 2)
    assert 1 < fair[0] <= 4 and math.prod(fair) < 16
    assert max(dear, default=1) == 1


def test_a_width_that_does_not_help_is_given_up() -> None:
    """Independent tokens are expected, and found not to be: chains would be best."""

    def world(seed: int) -> World:
        return World(pair_costs(0.02, 0.02), always(0.7), seed=seed, gain=0.0)

    known, seconds = Experience(world(0).costs), []
    for seed in range(6):
        control = controller(known.costs, TREE, known)
        seconds.append(world(seed).decode(control, 256)[0] / 256)
    chosen, chain, tree = sum(seconds[1:]) / 5, _fixed(world(9), 3), _fixed(world(9), TREE)
    assert chosen < 1.18 * chain < 0.9 * tree


@pytest.mark.parametrize("gain", [0.0, 1.0])
@pytest.mark.parametrize("name", WORLDS)
def test_no_run_with_trees_is_much_slower_than_plain_decoding(name: str, gain: float) -> None:
    costs, rates = WORLDS[name]
    for seed in range(4):
        world = World(costs, rates, seed=seed, gain=gain)
        assert world.decode(controller(costs, TREE), 256)[0] <= LOSS * 256


def test_a_width_that_was_not_seen_is_expected_of_those_that_were() -> None:
    rates = Acceptance(keeps=1.0, weight=1e-9)
    rates.add((2,), [1, 1, 1, 0])
    assert rates.rates((2,)) == pytest.approx([0.75])
    assert rates.rates((1,)) == pytest.approx([0.5])
    assert rates.rates((3,)) == pytest.approx([1 - 0.5**3])
    rates.add((1,), [1, 0, 0, 0])
    assert rates.rates((1,)) == pytest.approx([0.25]) and rates.rates((2,)) == pytest.approx([0.75])


# --- planted mistakes: each is found by the worlds above ------------------------------------


def _is_sound() -> bool:
    """What the tests above ask for, in brief."""
    worlds = [World(*WORLDS[name]) for name in ("useless", "useless and dear", "dear to verify")]
    are_safe = all(seconds_of(world, n) <= LOSS for world in worlds for n in (40, 256))
    return are_safe and seconds_of(World(*WORLDS["good"]), 256) < 0.45


def test_the_worlds_are_passed_as_it_is() -> None:
    assert _is_sound()


@pytest.mark.parametrize(
    ("name", "value"),
    [("MOST_SAVED", 0.0), ("SHARE", 0.5), ("SOONEST_PROBE", 0)],
)
def test_wrong_settings_are_found(monkeypatch, name: str, value: float) -> None:
    monkeypatch.setattr(module, name, value)
    if name == "SOONEST_PROBE":
        monkeypatch.setattr(module, "LATEST_PROBE", 0)
        monkeypatch.setattr(module, "SHARE", 0.1)
    assert not _is_sound()


def test_a_controller_that_ignores_the_account_is_found(monkeypatch) -> None:
    monkeypatch.setattr(Experience, "balance", property(lambda self: 99.0, lambda *_: None))
    assert not _is_sound()


def test_a_controller_that_ignores_costs_is_found(monkeypatch) -> None:
    monkeypatch.setattr(Controller, "_ratios", lambda self: [1.0] * len(self.shapes))
    assert not _is_sound()


def test_the_promise_is_what_the_settings_say() -> None:
    """Half a plain step and 1.5 % keep within 3 % from 34 tokens on."""
    assert ALLOWANCE + SHARE * 34 <= 0.03 * 34 + 1e-9

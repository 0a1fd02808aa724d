"""Which draft lengths are recorded, in a world where recordings take long."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import pytest
from support.simulated import World, controller, pair_costs

from mtad.api.controller import Controller
from mtad.api.costs import PLAIN, Shape, Widths
from mtad.api.experience import Experience
from mtad.api.recordings import ENOUGH, MOST_PLAIN, Recordings

EAGER, PATIENCE, NUM_COMPARED = 1.4, 8, 4
RECORDING, COMPARING = 8.0, 2.4
COST = 16.0
CHAIN = [(1,) * length for length in range(9)]


@dataclass
class Taped(World):
    """Iterations are eager at first, then recorded, compared a few times and only then played.

    Attributes:
        runs: of each shape, without those that were only tried.
    """

    runs: Counter[Widths] = field(default_factory=Counter)

    def taken(self, shape: Shape, is_trial: bool) -> tuple[float, str]:
        """Seconds of an iteration, and how it ran."""
        seconds = self.seconds(shape)
        if is_trial and self.runs[shape.widths] < PATIENCE:
            return EAGER * seconds, "eager"
        self.runs[shape.widths] += 1
        left = self.runs[shape.widths] - PATIENCE
        if left <= 0:
            return EAGER * seconds, "eager"
        if left <= 1 + NUM_COMPARED:
            return (RECORDING if left == 1 else COMPARING) * seconds, "capturing"
        return seconds, "captured"

    def text(self, control: Controller, num_tokens: int) -> float:
        """Seconds of a text."""
        seconds, made = 0.0, 0
        while made < num_tokens:
            shape = control.choose(1)
            taken, mode = self.taken(shape, control.is_trial)
            tokens = 1 + self.accepted(shape, made)
            control.add([tokens] if made + tokens < num_tokens else [], taken, mode)
            seconds, made = seconds + taken, made + tokens
        return seconds

    def fixed(self, length: int, num_tokens: int) -> float:
        """Seconds of a text with drafts of one length."""
        shape = controller(self.costs, length).shapes[-1] if length else Shape(PLAIN, (), 1)
        seconds, made = 0.0, 0
        while made < num_tokens:
            seconds += self.taken(shape, False)[0]
            made += 1 + self.accepted(shape, made)
        return seconds


def run_of(world: Taped, lengths: list[int], longest: int = 8) -> list[float]:
    """Seconds of the texts of a new pair."""
    known = Experience(world.costs, recordings=Recordings(COST))
    return [world.text(controller(world.costs, longest, known), n) for n in lengths]


def plain_of(world: Taped, lengths: list[int]) -> list[float]:
    return [world.fixed(0, n) for n in lengths]


def rate(value: float):
    return lambda place, depth: value


@pytest.mark.parametrize("draft", [0.05, 0.3])
@pytest.mark.parametrize("accepted", [0.0, 0.1, 0.2])
@pytest.mark.parametrize("lengths", [[64] * 8, [256] * 3, [48]], ids=["short", "long", "one"])
def test_drafts_that_do_not_pay_are_hardly_recorded(draft, accepted, lengths) -> None:
    costs = pair_costs(draft)
    for seed in range(5):
        world, other = (Taped(costs, rate(accepted), seed=seed) for _ in range(2))
        seconds, plain = sum(run_of(world, lengths)), sum(plain_of(other, lengths))
        num_recorded = sum(count > PATIENCE for widths, count in world.runs.items() if widths)
        assert num_recorded <= (accepted > 0)
        assert seconds <= 1.02 * plain + COST * num_recorded


@pytest.mark.parametrize("accepted", [0.5, 0.7, 0.85])
@pytest.mark.parametrize("longest", [4, 8])
def test_drafts_that_pay_do_so_from_the_first_texts_on(accepted: float, longest: int) -> None:
    costs, lengths = pair_costs(0.1, node=0.06), [64] * 8
    found, plain = 0.0, 0.0
    for seed in range(5):
        world, other = (Taped(costs, rate(accepted), seed=seed) for _ in range(2))
        seconds, others = run_of(world, lengths, longest), plain_of(other, lengths)
        assert sum(seconds[:2]) <= 1.03 * sum(others[:2]) + COST
        found, plain = found + sum(seconds), plain + sum(others)
    assert found < plain


@pytest.mark.slow
@pytest.mark.parametrize("accepted", [0.5, 0.85])
def test_the_best_lengths_are_recorded_in_the_end(accepted: float) -> None:
    costs = pair_costs(0.1, node=0.06)
    world, known = Taped(costs, rate(accepted)), Experience(costs, recordings=Recordings(COST))
    seconds = [world.text(controller(costs, 8, known), 256) for _ in range(16)]
    best = min(sum(_settled(costs, accepted, n) for _ in range(8)) for n in (1, 2, 3, 4, 6, 8))
    assert sum(seconds[8:]) <= 1.1 * best


def _settled(costs, accepted: float, length: int) -> float:
    world = Taped(costs, rate(accepted), seed=length)
    world.fixed(length, 512)
    return world.fixed(length, 256)


def test_a_further_length_has_to_be_paid_for() -> None:
    known = Recordings(COST)
    assert not known.begin(1, CHAIN[2], 1.5), "nothing is known of the draft yet"
    known.won = ENOUGH
    assert not known.begin(1, CHAIN[2], 1.01)
    assert known.begin(1, CHAIN[2], 1.2) and known.allows(1, CHAIN[2])
    assert not known.begin(1, CHAIN[3], 1.2) and not known.allows(1, CHAIN[3])
    for _ in range(int(COST) + 1):
        known.add(1, CHAIN[2], 2.5, 1.5, 1.0, "captured")
    assert known.begin(1, CHAIN[3], 1.2)
    assert not known.allows(2, CHAIN[3]) and known.begin(2, CHAIN[3], 1.2), "rows have their own"


def test_recordings_are_charged_with_what_they_took() -> None:
    known = Recordings(COST)
    for _ in range(4):
        known.add(1, (), 1.0, 1.0, 2.0, "captured")
    assert known.savings == pytest.approx(0.0)
    known.add(1, CHAIN[2], 1.0, 1.0, 20.0, "capturing")
    assert known.savings == pytest.approx(-9.0)
    known.add(1, CHAIN[2], 1.0, 1.0, 3.0, "eager")
    assert known.savings == pytest.approx(-9.5) and known.slowness == pytest.approx(1.5)


def test_plain_steps_beside_recorded_drafts_are_recorded_when_they_are_many() -> None:
    known = Recordings(COST, won=ENOUGH)
    assert known.allows(1, ())
    assert known.begin(1, CHAIN[2], 1.5) and not known.allows(1, ())
    for _ in range(MOST_PLAIN + 1):
        known.add(1, (), 1.0, 1.0, 1.4, "eager")
    assert known.allows(1, ())


def test_a_recording_that_is_there_is_used() -> None:
    known = Recordings(COST)
    assert not known.allows(1, CHAIN[4])
    known.add(1, CHAIN[4], 1.0, 1.0, 1.0, "captured")
    assert known.allows(1, CHAIN[4])


def test_where_nothing_is_recorded_all_lengths_are_used() -> None:
    known = Recordings()
    assert known.allows(1, CHAIN[8]) and known.allows(3, CHAIN[2]) and known.allows(1, ())

"""Joules of texts that are decoded together, against sums made by hand."""

from __future__ import annotations

import math

import pytest
from support.replay_meter import Replay

from mtad.measure.energy import Reading
from mtad.measure.meter import Meter
from mtad.measure.sharing import SharedEnergy


class Text:
    """Stands for a text."""


class Recorded:
    """A meter that shows joules when it is read, and a clock that stands until it is moved."""

    def __init__(self, *joules: float, ranges: dict[str, int] | None = None) -> None:
        self.now = 100.0
        readings = (Reading(self.now, {"cpu": int(value * 1e6)}) for value in joules)
        meter = Meter(Replay(readings, "test (recorded)", 0.1, ranges or {}))
        self.energy = SharedEnergy(meter, lambda: self.now)

    def begin(self, at: float) -> Text:
        text, self.now = Text(), at
        self.energy.begin(text)
        return text

    def share(self, at: float, text: Text, num_tokens: int) -> tuple[float | None, str | None]:
        self.now = at
        return self.energy.share([text], num_tokens)


def test_a_text_gets_the_share_of_its_tokens() -> None:
    recorded = Recorded(50, 60, 90)
    one, two = recorded.begin(100.0), recorded.begin(101.0)
    recorded.energy.count(30)
    assert recorded.share(103.0, one, 15) == (pytest.approx(40 * 15 / 30), None)
    recorded = Recorded(50, 60, 90)
    one = recorded.begin(100.0)
    recorded.energy.count(10)
    two = recorded.begin(101.0)
    recorded.energy.count(20)
    assert recorded.share(103.0, two, 5) == (pytest.approx(30 * 5 / 20), None), "its time alone"


def test_shares_add_up_to_all_that_was_used() -> None:
    recorded = Recorded(0, 20, 20, 20)
    texts = [recorded.begin(100.0) for _ in range(3)]
    recorded.energy.count(20)
    pairs = zip(texts, (5, 12, 3), strict=True)
    parts = [recorded.share(102.0, text, tokens)[0] for text, tokens in pairs]
    assert sum(part or math.nan for part in parts) == pytest.approx(20)


def test_several_texts_of_a_request_have_one_window_from_the_first_ones_beginning() -> None:
    recorded = Recorded(0, 10, 30)
    first = recorded.begin(100.0)
    recorded.energy.count(4)
    second = recorded.begin(101.0)
    recorded.energy.count(6)
    recorded.now = 102.0
    assert recorded.energy.share([second, first], 10) == (pytest.approx(30), None)


def test_a_reading_that_is_newer_than_the_counters_update_is_used_again() -> None:
    recorded = Recorded(0, 10)  # a third reading would be a problem
    one, two = recorded.begin(100.0), recorded.begin(100.05)
    recorded.energy.count(2)
    recorded.now = 101.0
    assert recorded.energy.share([one, two], 2) == (pytest.approx(10), None)


def test_without_a_meter_there_is_a_reason_and_no_number() -> None:
    energy, text = SharedEnergy(Meter(None, "no counters here")), Text()
    energy.begin(text)
    assert not energy.is_metered
    assert energy.share([text], 4) == (None, "no counters here")
    assert energy.total_joules() == {}


@pytest.mark.parametrize(
    ("joules", "ended", "num_tokens", "reason"),
    [
        ((0, 10), 100.1, 1, "window too short"),
        ((0, 10), 101.0, 11, "the request has 11 of the 10 tokens"),
        ((0, 10), 101.0, 0, "the request has 0 of the 10 tokens"),
        ((10, 10), 101.0, 1, "did not advance"),
        ((10, 5), 101.0, 1, "went backwards"),
        ((10,), 101.0, 1, "no more readings"),
    ],
)
def test_windows_that_have_no_value(
    joules: tuple[float, ...], ended: float, num_tokens: int, reason: str
) -> None:
    recorded = Recorded(*joules)
    text = recorded.begin(100.0)
    recorded.energy.count(10)
    value, why = recorded.share(ended, text, num_tokens)
    assert value is None and why and reason in why


def test_a_text_that_was_not_begun_has_no_value() -> None:
    value, why = Recorded(0, 10).share(101.0, Text(), 1)
    assert value is None and why and "were not read at the beginning" in why


def test_it_goes_on_after_a_reading_that_has_no_value() -> None:
    recorded = Recorded(10, 5, 20)
    before = recorded.begin(100.0)
    after = recorded.begin(101.0)
    recorded.energy.count(2)
    assert recorded.share(102.0, after, 1) == (pytest.approx(15.0 / 2), None)
    _, why = recorded.share(102.0, before, 1)
    assert why


def test_counters_that_wrap_are_counted_on() -> None:
    recorded = Recorded(90, 10, 10, ranges={"cpu": 1_000_000_000})
    text = recorded.begin(100.0)
    recorded.energy.count(1)
    assert recorded.share(101.0, text, 1) == (pytest.approx(920.0), None)
    recorded.now = 102.0
    assert recorded.energy.total_joules() == {"cpu": pytest.approx(920.0)}


def test_what_it_keeps_does_not_grow() -> None:
    """A mark lives as long as its text; readings and counts are sums."""
    recorded = Recorded(*map(float, range(9000)))
    texts: list[Text] = []
    for second in range(2000):
        texts = [*texts[-3:], recorded.begin(100.0 + second)]
        recorded.energy.count(1)
    assert len(recorded.energy._marks) == len(texts) == 4
    held = [value for value in vars(recorded.energy).values() if hasattr(value, "__len__")]
    assert all(len(value) <= 4 for value in held)
    assert recorded.share(2100.0, texts[0], 4) == (pytest.approx(4 / 4 * 4), None)

"""The borders of an iteration's phases, and the clock that stands on them."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from support.replay_meter import Replay
from support.saved_pair import pair
from support.tiny import heat_of
from support.toys import MarkovPair, requests_of

import mtad
from mtad.engine.session import Session
from mtad.measure.energy import Energy, NoEnergy
from mtad.measure.meter import Meter
from mtad.measure.phases import MIN_INTERVALS, PhaseClock
from mtad.speculative.method import Method
from mtad.testing import TOY_START

ORDER = ["draft", "target", "verify", "commit", "end"]
PROMPTS = ["ab", "abc", "a"]


# --- the hook


def test_every_iteration_of_every_method_has_its_borders(
    toy: MarkovPair, method_class: type[Method]
) -> None:
    seen: list[str] = []
    heat = heat_of(method_class.name)
    requests = requests_of([[TOY_START]], max_new_tokens=6, temperature=heat)
    with torch.inference_mode():
        session = Session(toy.target, toy.draft, method_class(), requests, toy.vocab, seen.append)
    assert seen == [], "the prompt belongs to no phase"
    steps = list(session.run())
    assert seen == ORDER * len(steps)


def test_each_phase_begins_before_its_work(toy: MarkovPair) -> None:
    seen: list[str] = []

    class Telling(mtad.SpeculativeSampling):
        def draft(self, *arguments):
            seen.append("drafting")
            return super().draft(*arguments)

        def verify(self, *arguments):
            seen.append("verifying")
            return super().verify(*arguments)

    requests = requests_of([[TOY_START]], max_new_tokens=1)
    with torch.inference_mode():
        session = Session(toy.target, toy.draft, Telling(), requests, toy.vocab, seen.append)
        for lm in session.lms:
            lm.commit = _told(lm.commit, seen, "committing")
        session.target.forward = _told(session.target.forward, seen, "scoring")
        session.step()
    work = ["drafting", "scoring", "verifying", "committing", "committing"]
    assert [word for word in seen if word not in ORDER] == work
    assert [word for word in seen if word in ORDER] == ORDER
    first_work = ["drafting", "scoring", "verifying", "committing"]
    for phase, first in zip(ORDER[:4], first_work, strict=True):
        assert seen.index(first) == seen.index(phase) + 1


def _told(function, seen, word):
    def wrapped(*arguments):
        seen.append(word)
        return function(*arguments)

    return wrapped


@pytest.mark.slow
@pytest.mark.parametrize("method", [mtad.MTAD(), mtad.Autoregressive()])
def test_the_clock_changes_no_token(method: Method) -> None:
    clock = PhaseClock()
    options = {"seed": 5, "max_new_tokens": 12}
    timed = pair().generate(PROMPTS, method, on_phase=clock, **options)
    plain = pair().generate(PROMPTS, method, **options)
    assert [c.token_ids for c in timed] == [c.token_ids for c in plain]
    iterations = max(c.stats.num_spec_steps for c in timed)
    assert clock.counts == dict.fromkeys(ORDER[:4], iterations)


def test_streams_take_a_clock_too() -> None:
    clock = PhaseClock()
    list(pair().stream("ab", on_phase=clock, max_new_tokens=4, seed=1))
    assert set(clock.seconds) == set(ORDER[:4])


class Ticking:
    """A clock that shows one second more each time it is read."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def perf_counter(self) -> float:
        self.now_s += 1.0
        return self.now_s


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> Ticking:
    """The clock of whoever measures time."""
    clock = Ticking()
    for module in ("mtad.measure.phases", "mtad.api.pair"):
        monkeypatch.setattr(f"{module}.time", clock)
    return clock


def test_the_phases_add_up_to_the_time_of_decoding(ticking: Ticking) -> None:
    clock = PhaseClock()
    done = pair().generate("ab", on_phase=clock, max_new_tokens=20, ignore_eos=True, seed=1)[0]
    steps = done.stats.num_spec_steps
    assert clock.seconds == dict.fromkeys(ORDER[:4], steps)
    assert done.stats.decode_s == steps * (len(ORDER) + 1)  # one more tick outside of the phases


def test_the_caller_has_no_phase(ticking: Ticking) -> None:
    clock, steps = PhaseClock(), 0
    for _ in pair().stream("ab", on_phase=clock, max_new_tokens=6, ignore_eos=True, seed=1):
        ticking.now_s += 1000.0
        steps += 1
    assert clock.seconds == dict.fromkeys(ORDER[:4], steps)


# --- seconds and joules


def meter_of(folder: Path, rows: Iterable[tuple[float, int]], interval_s: float) -> Meter:
    """A meter that replays a log of one counter, "a", with these seconds and joules."""
    lines = [f'{{"source": "log", "interval_s": {interval_s}, "ranges": {{}}}}']
    lines += [
        f'{{"time_s": {s}, "microjoules": {{"a": {j * 1_000_000}}}, "problem": ""}}'
        for s, j in rows
    ]
    path = folder / "log.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return Meter(Replay.of(path))


FIRST = [(0.0, 0), (1.0, 5), (4.0, 65), (4.5, 66), (5.0, 66)]
SECOND = [(9.0, 100), (11.0, 110), (14.0, 170), (14.5, 171), (15.0, 171)]
TWO_ITERATIONS = [*FIRST, *SECOND]


def test_joules_by_phase(tmp_path: Path) -> None:
    clock = PhaseClock(meter=meter_of(tmp_path, TWO_ITERATIONS, 0.01))
    for phase in ORDER * 2:
        clock(phase)
    assert clock.seconds == {"draft": 3.0, "target": 6.0, "verify": 1.0, "commit": 1.0}
    assert clock.energy("draft") == Energy({"a": 15.0}, 3.0, "log (recorded)", 0.01)
    assert clock.energy("target") == Energy({"a": 120.0}, 6.0, "log (recorded)", 0.01)
    assert clock.energy("verify") == Energy({"a": 2.0}, 1.0, "log (recorded)", 0.01)
    still = clock.energy("commit")
    assert isinstance(still, NoEnergy) and "did not advance" in still.reason
    assert isinstance(clock.energy("end"), NoEnergy)


def test_phases_too_short_for_the_counter_have_no_joules(tmp_path: Path) -> None:
    clock = PhaseClock(meter=meter_of(tmp_path, TWO_ITERATIONS, 0.2))
    for phase in ORDER * 2:
        clock(phase)
    draft = clock.energy("draft")
    assert MIN_INTERVALS == 10 and isinstance(draft, NoEnergy)
    assert "draft lasts 1.5 s on the average" in draft.reason and "2 s" in draft.reason
    assert isinstance(clock.energy("target"), Energy), "3 s on the average"


def test_a_counter_that_fails_once_leaves_no_joules(tmp_path: Path) -> None:
    rows = [*TWO_ITERATIONS]
    rows[6] = (11.0, 90)  # less than before
    clock = PhaseClock(meter=meter_of(tmp_path, rows, 0.01))
    for phase in ORDER * 2:
        clock(phase)
    found = clock.energy("target")
    assert isinstance(found, NoEnergy) and "went backwards" in found.reason
    assert clock.seconds["target"] == 6.0, "the seconds stay"


def test_no_meter_no_joules() -> None:
    for clock in (PhaseClock(), PhaseClock(meter=Meter(None, "nothing here"))):
        for phase in ORDER:
            clock(phase)
        assert isinstance(clock.energy("draft"), NoEnergy) and clock.seconds["draft"] > 0
    assert clock.energy("draft") == NoEnergy("nothing here")


def test_the_devices_have_finished_at_every_border(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[object] = []
    monkeypatch.setattr(torch.cuda, "synchronize", waits.append)
    gpu, cpu = torch.device("cuda", 1), torch.device("cpu")
    clock = PhaseClock.of(gpu, cpu)
    for phase in ORDER:
        clock(phase)
    assert waits == [gpu] * len(ORDER)
    PhaseClock.of(cpu)("draft")
    assert len(waits) == len(ORDER)


def test_an_iteration_that_broke_off_is_not_counted_on() -> None:
    clock = PhaseClock()
    clock("draft")
    clock("end")
    time.sleep(0.05)
    clock("draft")
    clock("end")
    assert clock.counts["draft"] == 2 and clock.seconds["draft"] < 0.05
    assert "end" not in clock.seconds

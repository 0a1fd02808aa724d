"""What `mtad bench speed` sees of recorded iterations is what it sees of eager ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from support.limits import measure_small

import mtad
from mtad.bench.speed import measure as loop
from mtad.bench.speed.marks import ForwardClock, marked_forwards
from mtad.bench.speed.models import Loaded
from mtad.bench.speed.plan import SpeedPlan
from mtad.bench.speed.rows import Measured, read_speed_rows
from mtad.bench.speed.runs import NUM_WARM_UPS, Ours, Sampling
from mtad.measure.meter import Meter
from mtad.model.lm import LM
from mtad.runtime.backend import Backend, Program, Recording
from mtad.runtime.cpu_tapes import Tapes
from mtad.runtime.cuda_graphs import Graphs
from mtad.runtime.tape import Tape, mark
from mtad.speculative.method import Method

CPU = torch.device("cpu")
NEVER = 10**9
NO_METER = Meter(None, "none here")
FULL = Sampling(max_new_tokens=12, ignore_eos=True)
METHODS = [
    mtad.MTAD(num_draft_tokens=2, beam_width=2),
    *(
        pytest.param(method, marks=pytest.mark.slow)
        for method in (mtad.MCSS(k_config=(2, 2)), mtad.PromptLookup(), mtad.Autoregressive())
    ),
]


@pytest.fixture(autouse=True)
def _eager_again(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests share the pair: what a test sets to record it is undone."""
    monkeypatch.setattr(loaded.pair, "graphs", loaded.pair.graphs)


@pytest.fixture
def ours(loaded: Loaded) -> Callable[..., Ours]:
    """A run of a method with tapes of a given patience."""

    def make(method: Method, patience: int) -> Ours:
        loaded.pair.graphs = Tapes(patience, loop.TAPES_BYTES)
        return Ours(method.name, loaded, NO_METER, method)

    return make


def batch(loaded: Loaded, size: int = 1) -> list[list[int]]:
    ids = loaded.pair.tokenizer("SQL: SELECT").input_ids  # type: ignore[misc]
    return [list(ids)] * size


# -- the marks --------------------------------------------------------------------------


def test_a_mark_is_reported_at_every_replay_and_only_if_recorded() -> None:
    assert not mark("outside")
    found = []

    def run(begin: Callable[[str], None]) -> list[torch.Tensor]:
        begin("first")
        doubled = x * 2
        found.append(mark("+in 1 2"))
        halved = doubled / 4
        found.append(mark("-"))
        return [halved + doubled]

    x = torch.arange(3.0)
    tape = Tape(run, [x])
    assert found == [True, True] and not mark("outside")
    for value in (3.0, 5.0):
        heard: list[str] = []
        (result,) = tape.replay([torch.full((3,), value)], heard.append)
        assert heard == ["first", "+in 1 2", "-"]
        assert result.tolist() == [2.5 * value] * 3


def test_the_clock_takes_marks_apart_and_hands_phases_on(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    settled = iter([False, True])
    clock = ForwardClock(CPU, lambda: next(settled))
    for _ in range(2):
        for phase in ("draft", "+draft 2 3", "-", "target", "+target 2 4", "-", "verify", "end"):
            clock(phase)
            now[0] += 1.0
    assert clock.counts == {("draft", 2, 3): 2, ("target", 2, 4): 2}
    assert [(f.model, f.num_rows, f.num_tokens, f.count) for f in clock.forwards] == [
        ("draft", 2, 3, 2),
        ("target", 2, 4, 2),
    ]
    assert clock.seconds == 4.0
    assert clock.phases.seconds == {"draft": 6.0, "target": 6.0, "verify": 2.0}
    assert clock.num_unsettled == 1


def test_forwards_are_counted_by_model_and_shape(loaded: Loaded, ours: Any) -> None:
    before = LM.forward, LM.forward_level
    run = ours(mtad.MTAD(num_draft_tokens=3, beam_width=2), NEVER)
    found = run.measure(batch(loaded, 2), 0, replace(FULL, max_new_tokens=5))
    assert (LM.forward, LM.forward_level) == before
    steps = found.num_iterations
    target = [f for f in found.observed.forwards if f.model == "target"]
    draft = [f for f in found.observed.forwards if f.model == "draft"]
    assert sum(f.count for f in target) == steps
    assert {f.num_tokens for f in target} == {4}  # the root and three draft tokens
    assert sum(f.count for f in draft) == 3 * steps
    assert {f.num_tokens for f in draft} == {2}  # the last two tokens, then two beams
    assert max(f.num_rows for f in target) == 2
    assert 0 < found.observed.forward_s < found.decode_s


def test_the_functions_come_back_if_decoding_fails() -> None:
    before = LM.forward, LM.forward_level
    with pytest.raises(RuntimeError), marked_forwards(None):
        assert (LM.forward, LM.forward_level) != before
        raise RuntimeError
    assert (LM.forward, LM.forward_level) == before


# -- recorded iterations ----------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_recorded_iterations_count_like_eager_ones(
    method: Method, loaded: Loaded, ours: Any
) -> None:
    eager = ours(method, NEVER).measure(batch(loaded, 2), 0, FULL)
    run = ours(method, 0)
    first = run.measure(batch(loaded, 2), 0, FULL)  # some recorded, some tried, some replayed
    run.warm_up([batch(loaded, 2)], [0], FULL)
    replayed = run.measure(batch(loaded, 2), 0, FULL)
    assert eager.num_unsettled == eager.num_iterations > 0
    assert first.num_unsettled > 0 and replayed.num_unsettled == 0
    for found in (first, replayed):
        assert found.iterations == "recorded"
        assert found.observed.forwards == eager.observed.forwards
        assert found.observed.phases.keys() == eager.observed.phases.keys()
        assert 0 < found.observed.forward_s < found.decode_s
    assert replayed.num_output_tokens == eager.num_output_tokens == 2 * FULL.max_new_tokens


@pytest.mark.slow
def test_replayed_iterations_do_not_call_the_models(
    loaded: Loaded, ours: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The counts come from the marks in the tapes."""
    run = ours(mtad.MTAD(num_draft_tokens=2, beam_width=2), 0)
    run.warm_up([batch(loaded)], [0], FULL)
    calls = []
    forward = LM.forward
    monkeypatch.setattr(LM, "forward", lambda *a: calls.append(1) or forward(*a))
    found = run.measure(batch(loaded), 0, FULL)
    assert not calls
    assert sum(f.count for f in found.observed.forwards if f.model == "target") == (
        found.num_iterations
    )


@pytest.mark.slow
def test_iterations_that_read_are_eager_and_say_why(loaded: Loaded, ours: Any) -> None:
    run = ours(mtad.BiLD(), 0)
    run.warm_up([batch(loaded)], [0], FULL)
    found = run.measure(batch(loaded), 0, FULL)
    assert found.iterations == "eager" and found.num_unsettled == 0
    assert "reads a tensor back to the host" in found.eager_reason
    assert {f.model for f in found.observed.forwards} == {"target", "draft"}


# -- what is timed ----------------------------------------------------------------------


@pytest.fixture
def scripted(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> tuple[Ours, list[Any], list[int]]:
    """A run that decodes nothing; what it was asked for, and how unsettled it will be."""
    asked: list[Any] = []
    unsettled: list[int] = []
    whole = Measured(1, 1, 4, 4, 4, 0, 0.1, 0.4, 4, 0.5)

    def observed(self: Ours, prompts: Any, seed: int, sampling: Sampling) -> Measured:
        asked.append((prompts, seed))
        return replace(whole, num_unsettled=unsettled.pop(0) if unsettled else 0)

    monkeypatch.setattr(Ours, "_observed", observed)
    return Ours("mtad", loaded, NO_METER, mtad.MTAD()), asked, unsettled


def test_batches_are_warmed_up_until_nothing_is_recorded(scripted: Any) -> None:
    run, asked, unsettled = scripted
    unsettled += [3, 0, 1, 0]
    run.warm_up([[[5]], [[6]]], [0, 1000], FULL)
    assert asked == [([[5]], 0), ([[6]], 1000), ([[5]], 0), ([[5]], 0)]


def test_a_warm_up_ends(scripted: Any) -> None:
    run, asked, unsettled = scripted
    unsettled += [1] * 100
    run.warm_up([[[5]]], [0], FULL)
    assert len(asked) == NUM_WARM_UPS


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits of small buffers, which take no time."""
    measure_small(monkeypatch)


@pytest.mark.usefixtures("_quick")
def test_a_row_in_which_something_was_recorded_is_made_again_and_says_so(
    scripted: Any, loaded: Loaded, tmp_path: Any
) -> None:
    _, asked, unsettled = scripted
    unsettled += [0, 0, 2, 1, 3, 0]  # warm-up; three rows, the last two decoded twice
    plan = SpeedPlan(methods=(("mtad", mtad.MTAD()),), num_prompts=1, repeats=3, against=())
    loop.measure(plan, tmp_path, load_one=lambda spec, context: loaded)
    rows = read_speed_rows(tmp_path)
    assert [r.measured.num_unsettled for r in rows if r.measured] == [0, 1, 0]
    assert [seed for _, seed in asked] == [0, 0, 10**6, 10**6, 2 * 10**6, 2 * 10**6]


@pytest.mark.slow
@pytest.mark.usefixtures("_quick")
def test_rows_are_of_replayed_iterations(loaded: Loaded, tmp_path: Any) -> None:
    """Tapes from before have no marks: the run begins anew, without patience."""
    loaded.pair.graphs = before = Tapes(patience=0)
    loaded.pair.generate(batch(loaded), mtad.MTAD(), seed=0, guard=False, **vars(FULL))
    assert before.num_captured > 0
    plan = SpeedPlan(
        methods=(("mtad", mtad.MTAD(num_draft_tokens=2, beam_width=2)),),
        num_prompts=1,
        repeats=1,
        sampling=FULL,
        against=(),
    )
    loop.measure(plan, tmp_path, load_one=lambda spec, context: loaded)
    tapes = loaded.pair.graphs
    assert tapes is not None and tapes is not before
    assert (tapes.patience, tapes.limit_bytes) == (0, loop.TAPES_BYTES)
    for row in read_speed_rows(tmp_path):
        found = row.measured
        assert found is not None and found.observed is not None
        assert (found.iterations, found.num_unsettled) == ("recorded", 0)
        targets = [f.count for f in found.observed.forwards if f.model == "target"]
        assert sum(targets) == found.num_iterations
        assert row.as_dict()["measured"]["iterations"] == "recorded"


# -- a GPU ------------------------------------------------------------------------------


class Kept(Recording):
    """Runs the program at every replay."""

    def __init__(self, program: Program) -> None:
        self.program = program

    def replay(self, begin: Callable[[str], None]) -> None:
        self.output = self.program(begin)


class Eager(Backend):
    """Captures without a GPU."""

    def warm_up(self, program: Program, begin: Callable[[str], None]) -> torch.Tensor:
        return program(begin)

    def capture(self, program: Program, split: bool) -> Recording:
        return Kept(program)


@pytest.mark.slow
def test_a_gpu_is_timed_with_graphs_and_observed_without(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The models are on the CPU; only the runs take them to be elsewhere."""
    graphs = Graphs(Eager(), patience=1)
    monkeypatch.setattr(Loaded, "device", torch.device("meta"))
    loaded.pair.graphs = graphs
    run = Ours("mtad", loaded, NO_METER, mtad.MTAD())
    found = run.measure(batch(loaded), 0, FULL)
    assert loaded.pair.graphs is graphs
    assert graphs.num_captured > 0
    assert found.iterations == "recorded"
    assert found.observed is not None
    targets = [f.count for f in found.observed.forwards if f.model == "target"]
    assert sum(targets) == found.observed.num_iterations == found.num_iterations

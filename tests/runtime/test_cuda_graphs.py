"""Whole texts from captured iterations, on a CPU backend that has the semantics of CUDA graphs."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.recorder import Recorder
from support.tiny import PROMPTS, VOCAB, similar, some_variants, suited, tiny_model, variants

import mtad
import mtad.core.buckets
import mtad.engine.session
import mtad.runtime.backend
from mtad.engine.session import Block, Request, Session
from mtad.engine.workspace import Workspace
from mtad.errors import NonFiniteLogitsError
from mtad.model.lm import LM
from mtad.runtime.backend import CudaBackend
from mtad.runtime.cuda_graphs import Graphs
from mtad.runtime.state import State
from mtad.sampling.params import SamplingParams
from mtad.speculative.method import Method

BUCKET = 16
SMALL = mtad.MTAD(num_draft_tokens=2, beam_width=2)
"""A draft of few operations: the stand-in for a device takes its time for each."""
READS = {"bild"}
ONE_ITERATION = {"beam_search"}
EVERY_CAPTURED = pytest.mark.parametrize(
    "method", some_variants(READS | ONE_ITERATION, ("autoregressive", "mtad"))
)
SAMPLED = SamplingParams(temperature=0.9, top_k=20, top_p=0.95, max_new_tokens=32, seed=3)
MIXED = [
    SamplingParams(temperature=0.0, max_new_tokens=26),
    SamplingParams(
        repetition_penalty=1.3,
        frequency_penalty=0.2,
        presence_penalty=0.1,
        logit_bias={3: 1.0},
        min_new_tokens=4,
        max_new_tokens=30,
        eos_token_ids=[4, 5],
        seed=7,
    ),
    SamplingParams(temperature=0.8, min_p=0.02, top_p=0.9, max_new_tokens=12, seed=1),
]
"""Rows that leave the batch one after the other, and use every setting."""
JOINT = [
    SamplingParams(max_new_tokens=26, seed=1),
    SamplingParams(max_new_tokens=30, seed=2, eos_token_ids=[4]),
    SamplingParams(max_new_tokens=12, seed=3),
]


@pytest.fixture(autouse=True)
def small_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Buckets that a short text fills several of."""
    monkeypatch.setattr(mtad.core.buckets, "BUCKET", BUCKET)


@cache
def pair() -> tuple[Any, Any]:
    target = tiny_model("llama")
    return target, similar(target)


def opened(method: Method, requests: Sequence[Request], **options: Any) -> Session:
    with torch.inference_mode():
        return Session(*pair(), method, requests, VOCAB, **options)


def blocks_of(session: Session) -> list[Block]:
    return [block for step in session.run() for block in step.blocks]


@dataclass(frozen=True)
class Captured:
    """A text that was decoded with captured iterations."""

    blocks: list[Block]
    session: Session
    backend: Recorder


def captured(
    method: Method, requests: Sequence[Request], limit_bytes: int = 2**40, **options
) -> Captured:
    backend = Recorder()
    graphs = Graphs(backend, patience=1, limit_bytes=limit_bytes)
    session = opened(method, requests, workspace=Workspace(graphs), **options)
    return Captured(blocks_of(session), session, backend)


def requests_for(method: Method, rows: int) -> list[Request]:
    """One row of everything, or one plain row; rows end at budgets, EOS and a stop."""
    settings = JOINT if method.drafted_by == "target" else MIXED if rows > 1 else [SAMPLED]
    stops = [None, lambda token: token == 9, None]
    triples = zip(PROMPTS[:rows], settings, stops, strict=False)
    return [Request(prompt, suited(method, params), stop) for prompt, params, stop in triples]


# --- the same texts


@pytest.mark.slow
@EVERY_CAPTURED
@pytest.mark.parametrize("rows", [1, 3])
def test_texts_are_those_of_eager_iterations(method: Method, rows: int) -> None:
    requests = requests_for(method, rows)
    expected = blocks_of(opened(method, requests))
    got = captured(method, requests)
    assert got.blocks == expected
    assert got.session.graph_reason is None
    assert len(got.backend.recordings) >= 2, "buckets and batch sizes have changed"
    num_steps = got.backend.num_replays + got.backend.num_warm_ups
    assert got.backend.num_replays > num_steps / 3
    assert got.session.rows == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "mistral_sliding",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("gpt2", "gemma3_text")),
    ],
)
def test_models_with_other_masks_and_positions(name: str) -> None:
    target = tiny_model(name)
    models, requests = (target, similar(target)), requests_for(SMALL, 3)
    backend = Recorder()
    with torch.inference_mode():
        eager = Session(*models, SMALL, requests, VOCAB)
        graphed = Session(*models, SMALL, requests, VOCAB, workspace=Workspace(Graphs(backend)))
    assert blocks_of(graphed) == blocks_of(eager)
    assert backend.num_replays > 0


@pytest.mark.slow
@pytest.mark.parametrize("limit_bytes", [2**40, pytest.param(1, marks=pytest.mark.slow)])
def test_methods_may_take_turns(limit_bytes: int) -> None:
    """Every captured program begins where the one before it ended, whichever method it is of."""
    requests = requests_for(mtad.SpeculativeSampling(), 3)
    texts = []
    for backend in (None, Recorder()):
        graphs = Graphs(backend, patience=1, limit_bytes=limit_bytes)
        session = opened(
            mtad.SpeculativeSampling(num_draft_tokens=3), requests, workspace=Workspace(graphs)
        )
        methods = [session.method, mtad.SpeculativeSampling(num_draft_tokens=2)]
        texts.append([])
        with torch.inference_mode():
            while session.rows:
                session.method = methods[len(texts[-1]) % 2]
                texts[-1].append(session.step())
    assert backend is not None and backend.num_replays > 5
    assert texts[0] == texts[1]


@pytest.mark.slow
def test_a_phase_at_a_time_where_someone_listens() -> None:
    seen: list[str] = []
    method, requests = SMALL, requests_for(SMALL, 1)
    got = captured(method, requests, on_phase=seen.append)
    assert got.blocks == blocks_of(opened(method, requests))
    assert seen == ["draft", "target", "verify", "commit", "end"] * len(got.blocks)
    phases = [[tape.phase for tape in one.tapes] for one in got.backend.recordings]
    assert phases == [["draft", "target", "verify", "commit"]] * len(phases)
    assert all(tape.calls for one in got.backend.recordings for tape in one.tapes)


@pytest.mark.slow
def test_one_program_where_nobody_listens() -> None:
    got = captured(SMALL, requests_for(SMALL, 1))
    assert {len(one.tapes) for one in got.backend.recordings} == {1}


def test_bad_logits_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    target = copy.deepcopy(pair()[0])
    backend = Recorder()
    with torch.inference_mode():
        graphs = Graphs(backend, patience=1)
        session = Session(
            target,
            None,
            mtad.Autoregressive(),
            [Request([3], SAMPLED)],
            VOCAB,
            workspace=Workspace(graphs),
        )
        for _ in range(4):
            session.step()
        replays, position = backend.num_replays, session.lengths[0] - 1
        target.get_output_embeddings().weight[7] = float("nan")
        with pytest.raises(NonFiniteLogitsError, match=f"after position {position} of request 0"):
            session.step().require_sound()
    assert backend.num_replays == replays + 1


# --- how many are kept


@pytest.mark.slow
def test_the_memory_of_programs_is_bounded() -> None:
    requests = requests_for(SMALL, 3)
    got = captured(SMALL, requests, limit_bytes=5 * 2**23)
    assert len(got.backend.recordings) > 2
    assert got.session.graphs.num_captured == 2
    assert 2 * 2**24 < got.session.graphs.captured_bytes < 5 * 2**23
    assert got.blocks == blocks_of(opened(SMALL, requests))


@pytest.mark.slow
def test_a_program_that_leaves_is_freed() -> None:
    got = captured(SMALL, requests_for(SMALL, 3), limit_bytes=1)
    last = got.backend.recordings[-1]
    watched = [weakref.ref(one) for one in got.backend.recordings]
    got.backend.recordings.clear()
    gc.collect()
    assert [ref() for ref in watched] == [None] * (len(watched) - 1) + [last]


@pytest.mark.slow
def test_programs_die_with_their_session() -> None:
    got = captured(SMALL, requests_for(SMALL, 1))
    watched = weakref.ref(got.backend.recordings[-1])
    del got
    gc.collect()
    assert watched() is None


def test_capture_waits_until_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mtad.core.buckets, "BUCKET", 256)
    backend, requests = Recorder(), [Request([3, 5], SAMPLED)]
    session = opened(
        mtad.Autoregressive(), requests, workspace=Workspace(Graphs(backend, patience=4))
    )
    with torch.inference_mode():
        for expected in (0, 0, 0, 0, 1, 2, 3):
            session.step()
            assert backend.num_replays == expected
            assert session.graphs.is_warm == (expected > 1)
    assert backend.num_warm_ups == 4


@pytest.mark.slow
def test_another_session_needs_other_programs() -> None:
    """The buffers of a cache are part of a program; equal shapes do not make it fit."""
    graphs = Graphs(Recorder(), patience=1)
    first = opened(SMALL, [Request(PROMPTS[0], SAMPLED)], workspace=Workspace(graphs))
    blocks_of(first)
    others = [Request([token + 1 for token in PROMPTS[0]], SAMPLED)]
    expected = blocks_of(opened(SMALL, others))
    assert blocks_of(opened(SMALL, others, workspace=Workspace(graphs))) == expected


# --- what can't be captured


@pytest.mark.slow
def test_a_method_that_reads_runs_eagerly_and_says_why() -> None:
    method = next(m for m in variants() if m.name == "bild")
    requests = requests_for(method, 3)
    got = captured(method, requests)
    assert got.blocks == blocks_of(opened(method, requests))
    assert got.backend.recordings == []
    assert got.backend.num_warm_ups == 1, "it is not tried again"
    assert got.session.graphs.is_warm
    reason = got.session.graph_reason
    assert (
        reason == "the iteration can't be captured: aten._local_scalar_dense.default reads a value"
    )


class Copying(mtad.Autoregressive):
    """Makes a tensor of host values in every iteration."""

    def draft(self, lm, prefix, warp, noise):
        torch.tensor([1, 2, 3])
        return super().draft(lm, prefix, warp, noise)


def test_copies_from_the_host_are_refused() -> None:
    got = captured(Copying(), [Request([3], SAMPLED)])
    assert "copies from the host" in str(got.session.graph_reason)


class Full(Recorder):
    """Has no memory for a program, which it finds out when half of it is captured."""

    def capture(self, program, split):
        super().capture(program, split)
        raise torch.OutOfMemoryError("no memory is left\nand much more about it")


@pytest.mark.slow
def test_a_failed_capture_changes_nothing() -> None:
    requests, backend = requests_for(SMALL, 3), Full()
    session = opened(SMALL, requests, workspace=Workspace(Graphs(backend, patience=2)))
    assert blocks_of(session) == blocks_of(opened(SMALL, requests))
    assert session.graph_reason == "the iteration can't be captured: no memory is left"
    assert len(backend.recordings) == 1


def test_a_method_that_fails_does_not_stop_another() -> None:
    backend = Recorder()
    session = opened(
        Copying(), [Request([3], SAMPLED)], workspace=Workspace(Graphs(backend, patience=1))
    )
    with torch.inference_mode():
        session.step()
        assert session.graph_reason is not None
        session.method = mtad.Autoregressive()
        assert session.graph_reason is None
        session.step()
        session.step()
    assert backend.num_replays == 1


def test_errors_of_the_program_are_the_callers() -> None:
    def program(begin):
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        Graphs(Recorder()).run("x", State([]), program, lambda phase: None, False)


@pytest.mark.parametrize(
    ("devices", "reason"),
    [
        (["cpu"], "the models are not on a CUDA device"),
        (["cpu", "cuda:0"], "the models are not on a CUDA device"),
        (["cuda:0", "cuda:1"], "the models are on 2 devices"),
    ],
)
def test_where_there_are_no_graphs(devices: list[str], reason: str) -> None:
    assert Graphs.on(map(torch.device, devices)).reason("any") == reason


def test_a_session_on_the_cpu_says_that_it_runs_eagerly() -> None:
    session = opened(SMALL, [Request([3], SAMPLED)])
    assert session.graph_reason == "the models are not on a CUDA device"


# --- stale state would be noticed: the backend above is as strict as a CUDA graph


@pytest.mark.slow
def test_a_part_of_the_caches_that_stays_behind_changes_texts(monkeypatch) -> None:
    requests = requests_for(SMALL, 3)
    expected = blocks_of(opened(SMALL, requests))
    monkeypatch.setattr(LM, "STATE", ("bad_position", "longest"))
    assert captured(SMALL, requests).blocks != expected


class Forgetful(mtad.Autoregressive):
    """Draws with a number of the host's own that changes between iterations."""

    def verify(self, tree, target_logits, warp, noise):
        global calls
        calls += 1
        shifted = (super().verify(tree, target_logits, warp, noise).next_token + calls) % VOCAB
        return mtad.Verdict(shifted[:, None][:, :0], shifted * 0, shifted)


calls = 0


@pytest.mark.slow
def test_a_host_value_that_changes_is_noticed() -> None:
    global calls
    texts = []
    for backend in (None, Recorder()):
        calls = 0
        texts.append(
            blocks_of(
                opened(Forgetful(), [Request([3], SAMPLED)], workspace=Workspace(Graphs(backend)))
            )
        )
    assert texts[0][:2] == texts[1][:2]
    assert texts[0] != texts[1]


@dataclass
class Holder:
    value: torch.Tensor


def test_two_parts_of_the_state_that_are_one_tensor_are_kept_apart() -> None:
    one, two = Holder(torch.tensor([1])), Holder(torch.tensor([5]))

    def program(begin):
        begin("only")
        one.value = one.value + 1
        return one.value * 100 + two.value

    graphs, state = Graphs(Recorder(), patience=1), State([(one, "value"), (two, "value")])
    outputs = []
    for _ in range(4):
        outputs.append(graphs.run("x", state, program, lambda phase: None, False).tolist())
        if len(outputs) == 1:
            one.value = two.value
    assert outputs == [[205], [605], [705], [805]]


def test_a_replay_reads_and_writes_fixed_places() -> None:
    holder, backend = Holder(torch.tensor([1])), Recorder()
    buffer = torch.zeros(3, dtype=torch.int64)
    state = State([(holder, "value")], [buffer])

    def program(begin):
        begin("only")
        buffer[1:].add_(holder.value)
        holder.value = holder.value * 2
        return buffer + 10

    graphs, outputs = Graphs(backend, patience=1), []
    for _ in range(4):
        outputs.append(graphs.run("x", state, program, lambda phase: None, False).tolist())
    assert outputs == [[10, 11, 11], [10, 13, 13], [10, 17, 17], [10, 25, 25]]
    assert backend.num_replays == 3
    fixed = holder.value
    holder.value = torch.tensor([100])
    assert graphs.run("x", state, program, lambda phase: None, False).tolist() == [10, 125, 125]
    assert holder.value is fixed and fixed.tolist() == [200]


# --- the calls that CUDA gets, in their order


class FakeCuda:
    """Stands in for the parts of `torch.cuda` that capture and replay; writes down the calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[Any] = []
        self.mode, self.fails = 0, False
        for name in ("current_stream", "synchronize", "graph_pool_handle"):
            monkeypatch.setattr(torch.cuda, name, lambda *device, name=name: self.stream(name))
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: self.stream("side"))
        monkeypatch.setattr(torch.cuda, "stream", self.entered)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: Graph(self))
        monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: self.mode)
        monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", self.set_mode)

    def stream(self, name: str) -> Any:
        return SimpleNamespace(name=name, wait_stream=lambda other: self.tell(name, other.name))

    def tell(self, *call: Any) -> None:
        self.calls.append(call)

    @contextmanager
    def entered(self, stream: Any) -> Iterator[None]:
        self.tell("enter", stream.name)
        try:
            yield
        finally:
            self.tell("exit", stream.name)

    def set_mode(self, mode: int | str) -> None:
        self.mode = mode


class Graph:
    """A fake CUDA graph."""

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda

    def capture_begin(self, pool: Any, capture_error_mode: str) -> None:
        assert (pool.name, capture_error_mode) == ("graph_pool_handle", "thread_local")
        self.cuda.tell("begin")

    def capture_end(self) -> None:
        self.cuda.tell("end")
        if self.cuda.fails:
            raise RuntimeError("the capture is invalid")

    def replay(self) -> None:
        self.cuda.tell("replay")


def two_phases(begin) -> torch.Tensor:
    begin("draft")
    begin("target")
    return torch.tensor([1])


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    mtad.runtime.backend._side_stream.cache_clear()
    yield FakeCuda(monkeypatch)
    mtad.runtime.backend._side_stream.cache_clear()


@pytest.mark.parametrize(("split", "graphs"), [(False, 1), (True, 2)])
def test_cuda_graphs_are_captured_aside_and_replayed_in_order(cuda, split, graphs) -> None:
    recording = CudaBackend(torch.device("cuda", 0)).capture(two_phases, split)
    inside = [("begin",), ("end",)] * graphs
    before, after = [("side", "current_stream"), ("enter", "side")], [("exit", "side")]
    assert cuda.calls == [*before, *inside, *after, ("current_stream", "side")]
    cuda.calls.clear()
    recording.replay(lambda phase: cuda.tell(phase))
    told = [("draft",), ("replay",), ("target",), ("replay",)]
    assert cuda.calls == told[: 2 * graphs]
    assert recording.output.tolist() == [1]


def test_rehearsals_refuse_reads_but_let_clocks_wait(cuda) -> None:
    modes: list[Any] = []

    def program(begin):
        modes.append(cuda.mode)
        begin("draft")
        modes.append(cuda.mode)
        return torch.tensor([1])

    CudaBackend(torch.device("cuda", 0)).warm_up(program, lambda phase: modes.append(cuda.mode))
    assert modes == ["error", 0, "error"]
    assert cuda.mode == 0


def test_what_broke_a_capture_is_what_is_told(cuda) -> None:
    cuda.fails = True

    def program(begin):
        begin("draft")
        raise RuntimeError("operation not permitted when stream is capturing")

    backend = CudaBackend(torch.device("cuda", 0))
    with pytest.raises(RuntimeError, match="not permitted"):
        backend.capture(program, split=False)
    assert [call for call in cuda.calls if call == ("end",)] == [("end",)]
    with pytest.raises(RuntimeError, match="the capture is invalid"):
        backend.capture(two_phases, split=False)

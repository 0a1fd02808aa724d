"""CUDA graphs: the texts of eager decoding, one wait of the host per iteration, bounded memory."""

from __future__ import annotations

import copy
import gc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from support.tiny import (
    PROMPTS,
    VOCAB,
    label,
    prefilled,
    random_tree,
    similar,
    suited,
    tiny_model,
    variants,
)

import mtad
from mtad.engine.session import Block, Request, Session
from mtad.engine.workspace import Workspace
from mtad.measure.phases import PhaseClock
from mtad.model.lm import LM
from mtad.runtime.cuda_graphs import PATIENCE, Graphs
from mtad.runtime.state import State
from mtad.sampling.params import SamplingParams
from mtad.speculative.method import Method

pytestmark = pytest.mark.gpu
READS = {"bild"}
ONE_ITERATION = {"beam_search"}
CAPTURED = [m for m in variants() if m.name not in READS | ONE_ITERATION]
EVERY_CAPTURED = pytest.mark.parametrize("method", CAPTURED, ids=label)
GREEDY = [SamplingParams(temperature=0.0, max_new_tokens=n) for n in (60, 90, 30)]
SAMPLED = [SamplingParams(max_new_tokens=n, seed=n) for n in (60, 90, 30)]


@pytest.fixture(scope="module")
def pair():
    target = tiny_model("llama")
    return target.to("cuda"), similar(target).to("cuda")


@contextmanager
def waiting(mode: str) -> Iterator[None]:
    """What happens where the host waits for the device: "error" or "warn"."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.cuda.set_sync_debug_mode(mode)
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def opened(pair, method: Method, params: list[SamplingParams], **options: Any) -> Session:
    requests = [Request(p, suited(method, s)) for p, s in zip(PROMPTS, params, strict=True)]
    with torch.inference_mode():
        return Session(*pair, method, requests, VOCAB, **options)


def blocks_of(session: Session) -> list[Block]:
    return [block for step in session.run() for block in step.blocks]


def warm(session: Session) -> None:
    """Iterate until a graph is in use; no row ends meanwhile."""
    with torch.inference_mode():
        for _ in range(PATIENCE + 2):
            session.step()
    assert session.graph_reason is None
    assert session.graphs.num_captured == 1


@EVERY_CAPTURED
@pytest.mark.parametrize("params", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_texts_under_graphs_are_those_of_eager_iterations(pair, method, params):
    expected = blocks_of(opened(pair, method, params, workspace=Workspace(Graphs(None))))
    session = opened(pair, method, params)
    assert blocks_of(session) == expected
    assert session.graph_reason is None
    assert session.graphs.num_captured > 0


def test_bfloat16_logits_are_close():
    """The same kernels run on the same shapes; what may differ is which of the equally good ones
    the library picks, hence the rounding of bfloat16 (2^-8) over a few layers."""
    lm = prefilled(tiny_model("llama").to("cuda", torch.bfloat16), PROMPTS)
    tree = random_tree(PROMPTS, (3, 4), seed=0)
    values = {field.name: getattr(tree, field.name) for field in fields(tree)}
    moved = {name: value.to("cuda") for name, value in values.items() if hasattr(value, "to")}
    tree = replace(tree, **moved)
    graphs = Graphs.on(lm.devices)

    def program(begin):
        begin("target")
        return lm.forward(tree)

    with torch.inference_mode():
        expected = lm.forward(tree)
        state = State([(lm, name) for name in LM.STATE], lm.buffers)
        for _ in range(PATIENCE + 2):
            got = graphs.run("logits", state, program, lambda phase: None, False)
            torch.testing.assert_close(got, expected, rtol=1.6e-2, atol=1.6e-2)
    assert graphs.num_captured == 1


@EVERY_CAPTURED
def test_the_host_never_waits_inside_an_iteration(pair, method):
    session = opened(pair, method, [SamplingParams(max_new_tokens=60)] * 3)
    warm(session)
    with torch.inference_mode(), waiting("error"):
        session._iterated()
        session._iterate(lambda phase: None)


@EVERY_CAPTURED
def test_the_host_waits_once_per_iteration(pair, method):
    session = opened(pair, method, [SamplingParams(max_new_tokens=60)] * 3)
    warm(session)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with torch.inference_mode(), waiting("warn"):
            step = session.step()
    waits = [w for w in caught if "synchronizing CUDA operation" in str(w.message)]
    assert not any(block.finish_reason for block in step.blocks)
    assert len(waits) == 1


def test_a_method_that_reads_runs_eagerly_and_says_why(pair):
    method = next(m for m in variants() if m.name == "bild")
    session = opened(pair, method, GREEDY)
    assert blocks_of(session) == blocks_of(
        opened(pair, method, GREEDY, workspace=Workspace(Graphs(None)))
    )
    assert "synchronizing CUDA operation" in str(session.graph_reason)
    assert torch.cuda.get_sync_debug_mode() == 0


def test_models_on_different_devices_run_eagerly(pair):
    draft = copy.deepcopy(pair[1]).to("cpu")
    session = opened((pair[0], draft), mtad.MTAD(), GREEDY)
    assert session.graph_reason == "the models are not on a CUDA device"


def test_phases_are_told_under_graphs(pair):
    seen: list[str] = []
    clock = PhaseClock.of(torch.device("cuda"))

    def told(phase: str) -> None:
        clock(phase)
        seen.append(phase)

    session = opened(pair, mtad.MTAD(), GREEDY, on_phase=told)
    expected = blocks_of(opened(pair, mtad.MTAD(), GREEDY))
    assert blocks_of(session) == expected
    assert session.graph_reason is None
    order = ["draft", "target", "verify", "commit", "end"]
    assert seen == order * (len(seen) // len(order))
    assert all(clock.seconds[phase] > 0 for phase in order[:-1])


def test_a_capture_that_fails_leaves_the_device_usable(pair, monkeypatch):
    """The read comes only during the capture, where no rehearsal can find it."""

    class Late(mtad.Autoregressive):
        def draft(self, lm, prefix, warp, noise):
            if torch.cuda.is_current_stream_capturing():
                prefix.lengths.tolist()
            return super().draft(lm, prefix, warp, noise)

    session = opened(pair, Late(), GREEDY)
    expected = blocks_of(
        opened(pair, mtad.Autoregressive(), GREEDY, workspace=Workspace(Graphs(None)))
    )
    assert blocks_of(session) == expected
    assert "can't be captured" in str(session.graph_reason)
    torch.cuda.synchronize()
    assert blocks_of(opened(pair, mtad.Autoregressive(), GREEDY)) == expected


def test_memory_comes_back_with_the_session(pair):
    def used_bytes() -> int:
        gc.collect()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        return torch.cuda.memory_reserved()

    sizes = []
    for _ in range(4):
        blocks_of(opened(pair, mtad.MTAD(), SAMPLED))
        sizes.append(used_bytes())
    assert sizes[3] <= sizes[1], "what stays is what the libraries keep once"


def test_no_more_graphs_are_kept_than_allowed(pair):
    graphs = Graphs.on([torch.device("cuda", 0)])
    graphs.limit_bytes = 1
    session = opened(pair, mtad.MTAD(), SAMPLED, workspace=Workspace(graphs))
    assert blocks_of(session) == blocks_of(opened(pair, mtad.MTAD(), SAMPLED))
    assert graphs.num_captured == 1

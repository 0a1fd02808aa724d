"""Eager runs are never silent, never without bound, and not for ever where memory was short."""

from __future__ import annotations

import logging

import pytest
import torch
from support.recorder import Recorder
from support.tiny import VOCAB, similar

import mtad.runtime.programs
from mtad.engine.session import Request, Session
from mtad.engine.workspace import Workspace
from mtad.methods.autoregressive import Autoregressive
from mtad.methods.mtad import MTAD
from mtad.runtime.cpu_tapes import Tapes
from mtad.runtime.cuda_graphs import Graphs
from mtad.runtime.programs import MOST_REASONS, Programs
from mtad.runtime.state import State
from mtad.sampling.params import SamplingParams
from mtad.testing import random_llama

MAKES = [lambda: Graphs(Recorder(), patience=1), lambda: Tapes(patience=0)]
EVERY_KIND = pytest.mark.parametrize("make", MAKES, ids=["graphs", "tapes"])


def sound(begin) -> torch.Tensor:
    begin("only")
    return torch.ones(2) * 3


def reading(begin) -> torch.Tensor:
    begin("only")
    return sound(begin) * float(torch.ones(1).item())


def run(programs: Programs, name: str, program=sound) -> torch.Tensor:
    with torch.inference_mode():
        return programs.run(name, State([]), program, lambda phase: None, False)


@EVERY_KIND
def test_a_reason_is_logged_once_and_its_runs_are_counted(make, caplog):
    caplog.set_level(logging.INFO, logger="mtad")
    programs = make()
    for name in ("one", "two", "one", "two", "one"):
        assert run(programs, name, reading).tolist() == [3, 3]
    assert programs.eager_iterations["unsupported"] >= 3
    (record,) = caplog.records
    assert record.name.startswith("mtad.") and "one" in record.getMessage()
    assert programs.reason("two") is not None


@EVERY_KIND
def test_reasons_do_not_grow_without_bound(make):
    programs = make()
    for number in range(MOST_REASONS + 40):
        run(programs, f"option={number}", reading)
    assert len(programs._fallbacks) == MOST_REASONS


@EVERY_KIND
def test_an_error_of_the_program_itself_is_no_reason_to_run_eagerly(make):
    programs, is_broken = make(), True

    def program(begin) -> torch.Tensor:
        if is_broken:
            raise RuntimeError("the device is lost")
        return sound(begin)

    with pytest.raises(RuntimeError, match="lost"):
        run(programs, "one", program)
    is_broken = False
    for _ in range(3):
        run(programs, "one", program)
    assert programs.reason("one") is None and programs.num_captured == 1


class Short(Recorder):
    """Has no memory for its first capture."""

    def capture(self, program, split):
        made = super().capture(program, split)
        if len(self.recordings) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return made


def test_a_capture_without_memory_is_tried_again(monkeypatch, caplog):
    monkeypatch.setattr(mtad.runtime.programs, "RETRY_AFTER", 3)
    programs = Graphs(Short(), patience=1)
    modes = []
    for _ in range(8):
        assert run(programs, "one").tolist() == [3, 3]
        modes.append(programs.last_mode)
    assert modes == ["capturing"] * 2 + ["eager"] * 3 + ["capturing"] * 2 + ["captured"]
    assert programs.num_captured == 1
    assert programs.eager_iterations["out_of_memory"] == 4
    assert [r.levelname for r in caplog.records] == ["WARNING"]


def test_iterations_that_are_looked_at_and_large_batches_are_counted():
    target = random_llama()
    requests = [Request([i + 1], SamplingParams(max_new_tokens=6, seed=i)) for i in range(2)]
    programs = Graphs(Recorder(), patience=1)
    with torch.inference_mode():
        workspace = Workspace(programs)
        models = (target, similar(target))
        large = Session(*models, MTAD(), requests, VOCAB, workspace=workspace, most_captured=1)
        large.step()
        shown = Session(*models, Autoregressive(), requests, VOCAB, workspace=workspace)
        shown.observe = [].append
        shown.step()
    assert programs.eager_iterations == {"large_batch": 1, "observed": 1}

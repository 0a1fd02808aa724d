"""`distill` from prompts to a head: killed and resumed, ended early, refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support import saved_pair

from mtad.api.paying import chains
from mtad.distill.corpus import Sampling
from mtad.distill.plan import Plan
from mtad.distill.run import CannotPayError, distill
from mtad.errors import DataError

SECONDS = 20.0
PLAN = Plan(
    target="tiny",
    hours=SECONDS / 3600,
    draft_vocab_size=200,
    sampling=Sampling(max_new_tokens=12, batch_size=8),
    batch_size=32,
)
STANDALONE = replace(PLAN, kind="standalone", num_layers=1)
CHEAP = chains(draft_s=0.01, target_s=(1.0, 1.0, 1.0, 1.0, 1.0, 1.0))


class Ticks:
    """A clock that is a second later at every look, and kills the run at one of them."""

    def __init__(self, kill_at=10**9):
        self.now, self.kill_at = 0.0, kill_at

    def __call__(self):
        self.now += 1.0
        if self.now >= self.kill_at:
            raise KeyboardInterrupt
        return self.now


class Heard:
    """Keeps what an observer hears."""

    def __init__(self):
        self.phases, self.lines = [], []

    def begin(self, phase, total):
        assert total > 0
        self.phases.append(phase)

    def advance(self, done, status):
        assert done >= 0

    def say(self, text):
        self.lines.append(text)


def made(work, plan=PLAN, costs=CHEAP, clock=None, heard=None):
    """A draft of the tiny pair's target."""
    heard = heard or Heard()
    clock = clock or Ticks()
    return distill(saved_pair.pair(), plan, work, heard, clock=clock, measure=lambda *_: costs)


@pytest.mark.slow
def test_a_head_comes_of_it_and_the_user_hears_what_it_brings(tmp_path):
    heard = Heard()
    done = made(tmp_path, heard=heard)
    assert heard.phases == ["the target answers", "reading the answers", "training"]
    assert done.num_answers == 8 * 11 and done.stopped == ""
    assert len(done.student.d2t) == 200
    assert done.curve[0].seconds == 0
    assert set(done.curve[-1].acceptance) == {0.0, 1.0}
    assert "a draft pays from an acceptance of 0.01 on" in heard.lines[0]
    assert "times plain decoding" in heard.lines[-1]
    assert (tmp_path / "starts.pt").exists()  # of the second pass
    seconds = [judged.seconds for judged in done.curve]
    assert len(set(seconds)) == len(seconds)  # nothing is measured twice


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kill_at", "plan"), [(4, PLAN), (16, PLAN), (16, STANDALONE)], ids=["answers", "head", "own"]
)
def test_a_run_that_was_killed_goes_on_where_it_was(tmp_path, kill_at, plan):
    whole = made(tmp_path / "whole", plan)
    with pytest.raises(KeyboardInterrupt):
        made(tmp_path / "killed", plan, clock=Ticks(kill_at))
    resumed = made(tmp_path / "killed", plan)
    seconds = [judged.seconds for judged in resumed.curve]
    assert seconds[0] == 0 and seconds == sorted(set(seconds))
    assert seconds[-1] >= PLAN.schedule.seconds
    assert resumed.num_answers >= whole.num_answers - 8
    rows = (tmp_path / "killed" / "answers.jsonl").read_text().splitlines()
    assert len(rows) == resumed.num_answers


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plan.json", "answers.seconds", "curve.json"])
def test_a_kill_while_a_file_is_written_does_no_harm(tmp_path, monkeypatch, name):
    write, times = Path.write_bytes, []

    def killed(path, content):
        """A write of which a kill leaves an empty file."""
        if path.name.startswith(name):
            times.append(path)
            if len(times) == (1 if name == "plan.json" else 2):
                write(path, b"")
                raise KeyboardInterrupt
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", killed)
    with pytest.raises(KeyboardInterrupt):
        made(tmp_path)
    monkeypatch.undo()
    assert made(tmp_path).num_answers >= 8


@pytest.mark.slow
def test_what_is_finished_is_not_done_again(tmp_path):
    first, heard = made(tmp_path), Heard()
    again = made(tmp_path, heard=heard)
    assert "the target answers" not in heard.phases
    for one, other in zip(first.student.learnt(), again.student.learnt(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("plan", "remedy"),
    [(PLAN, "use a larger"), (STANDALONE, "use fewer --num-layers, --kind head")],
)
def test_a_draft_that_is_too_dear_is_refused_at_once(tmp_path, plan, remedy):
    dear = chains(draft_s=1.2, target_s=(1.0, 1.0, 1.0))
    message = rf"a draft cannot pay here.*take 1\.1\d times as long.*{remedy}"
    with pytest.raises(CannotPayError, match=message):
        made(tmp_path, plan, costs=dear)
    assert not (tmp_path / "answers.jsonl").exists()


@pytest.mark.slow
def test_a_draft_that_does_not_get_there_is_ended(tmp_path):
    hard = chains(draft_s=0.9, target_s=(1.0, 1.05, 1.1))
    done = made(tmp_path, costs=hard)
    assert "does not rise fast enough" in done.stopped
    assert done.curve[-1].seconds < PLAN.schedule.seconds


def test_the_work_of_another_plan_is_not_mixed_in(tmp_path):
    PLAN.keep(tmp_path / "plan.json")
    PLAN.keep(tmp_path / "plan.json")
    other = Plan(target="other", hours=PLAN.hours)
    with pytest.raises(DataError, match=r"its target is 'tiny', and not 'other'"):
        other.keep(tmp_path / "plan.json")
    with pytest.raises(DataError, match="its kind is 'head', and not 'standalone'"):
        STANDALONE.keep(tmp_path / "plan.json")


def test_a_draft_of_its_own_learns_faster():
    rates = [plan.schedule.learning_rate for plan in (PLAN, STANDALONE)]
    assert rates == pytest.approx([3e-4, 9e-4])


def test_a_plan_of_before_there_were_kinds_is_one_of_a_head(tmp_path):
    path = tmp_path / "plan.json"
    PLAN.keep(path)
    old = json.loads(path.read_text())
    del old["kind"], old["num_layers"]
    path.write_text(json.dumps(old))
    PLAN.keep(path)
    with pytest.raises(DataError, match="its kind is 'head', and not 'standalone'"):
        STANDALONE.keep(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hours": 0}, "--hours is 0"),
        ({"draft_vocab_size": 1}, "--draft-vocab-size is 1"),
        ({"num_layers": 3}, "--num-layers is 3, .* the kind 'head' has none"),
        ({"kind": "tail"}, "--kind is 'tail'; it must be head or standalone"),
    ],
)
def test_plans_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Plan("target", **options)

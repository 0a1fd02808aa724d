"""Where blocks of drafted tokens begin along the target's texts."""

import itertools

import pytest
import torch
from support.head_texts import head_of, rolled_out

from mtad.distill.blocks import Walk, chains_of
from mtad.distill.head import HeadStudent
from mtad.sampling.params import SamplingParams


def test_blocks_begin_where_the_chance_says(tmp_path):
    """Against the definition, place by place, for a draft that is accepted now and then."""
    head, target = head_of(seed=1), head_of(seed=2)
    head._embedding, head.lm_head = target._embedding, target.lm_head
    states = rolled_out(target, num_texts=30, length=5)
    walk = Walk(SamplingParams, depth=2, seconds=100.0, clock=lambda: 0.0)
    found = walk.block_starts(tmp_path / "starts.pt", HeadStudent(head), states, head.logits)
    for start, answer in states.answers():
        chains = chains_of(HeadStudent(head), answer, head.logits, SamplingParams(1.0), 2).reached
        ones, twos = chains[:, 1].tolist(), chains[:, 2].tolist()
        at = [1.0]
        for place in range(1, 5):
            chance = at[place - 1] * (1 - ones[place - 1])
            if place >= 2:
                chance += at[place - 2] * (ones[place - 2] - twos[place - 2])
            if place >= 3:
                chance += at[place - 3] * twos[place - 3]
            at.append(chance)
        assert found[start : start + 5].tolist() == pytest.approx(at, abs=1e-5)
    assert 0.02 < float(found[1::5].mean()) < 0.9


def test_answers_that_no_time_was_left_for_have_no_blocks(tmp_path):
    head = head_of(seed=1)
    states = rolled_out(head, num_texts=6, length=5)
    ticks = itertools.count()
    walk = Walk(SamplingParams, depth=2, seconds=3.0, clock=lambda: float(next(ticks)))
    found = walk.block_starts(tmp_path / "starts.pt", HeadStudent(head), states, head.logits)
    walked = [bool(found[start]) for start, _ in states.answers()]
    assert sum(walked) == 3
    for (start, answer), was in zip(states.answers(), walked, strict=True):
        assert was or not found[start : start + len(answer)].any()
    assert torch.equal(walk.block_starts(tmp_path / "starts.pt", None, None, None), found)

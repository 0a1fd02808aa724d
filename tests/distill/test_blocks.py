"""Chains of drafted tokens along the target's texts, and where blocks of them begin."""

import dataclasses
import itertools

import pytest
import torch
from support.copies import followed
from support.head_texts import head_of, rolled_out
from support.tiny import VOCAB

from mtad.distill.blocks import Walk, chains_of, law_of
from mtad.distill.copying import counted_rates
from mtad.distill.head import HeadStudent
from mtad.distill.states import States
from mtad.model.copy_rates import set_copy_rates
from mtad.sampling.params import SamplingParams

RATES = (0.0, 0.3, 0.6, 0.9)


@pytest.mark.slow
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


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_chains_that_copy_are_those_that_a_session_drafts(temperature):
    """The head's own law, and the copied token, place by place and step by step."""
    head, target = head_of(drafted=VOCAB // 2, seed=1), head_of(seed=2)
    head._embedding = target._embedding
    set_copy_rates(head, RATES)
    states = rolled_out(target, num_texts=12, length=9)
    states = dataclasses.replace(states, tokens=states.tokens % 3, prompts=[[2, 1]] * 12)
    params = SamplingParams(temperature)
    num_copied = 0
    for _, answer in states.answers():
        text = [2, 1, *answer.tokens.tolist()]
        found = chains_of(HeadStudent(head), answer, target.logits, params, depth=3)
        for place in range(8):
            state, reached = head.enter(answer.hidden[place].float()), 1.0
            for step in range(min(3, 8 - place)):
                state = head(head.embed(answer.tokens[place + step]), state)
                raw = torch.zeros(VOCAB)
                raw[head.d2t] = head.logits(state).softmax(-1)
                root = 2 + place
                path = text[root + 1 : root + 1 + step]
                token, length = followed(text[: root + 1], path, len(RATES) - 1)
                law, rate = raw, RATES[length]
                if token is not None:
                    law = (1 - rate) * raw
                    law[token] += rate
                    num_copied += 1
                p = law_of(target.logits(answer.hidden[place + step + 1])[None], params)[0]
                if temperature == 0:
                    law = torch.nn.functional.one_hot(law.argmax(), VOCAB).float()
                overlap = found.overlap[place, step]
                torch.testing.assert_close(overlap, torch.minimum(p, law).sum(), atol=1e-4, rtol=0)
                said = answer.tokens[place + step + 1]
                reached *= float((law[said] / p[said].clamp(min=1e-9)).clamp(max=1))
                assert float(found.reached[place, step + 1]) == pytest.approx(reached, abs=1e-4)
    assert num_copied > 20


def test_rates_are_the_squared_odds_of_what_came_again():
    """A text that repeats itself, and one in which nothing that follows comes again."""
    tokens = torch.tensor([1, 2, 3, 1, 2, 3, 1, 2, 3, 5, 6, 5, 7, 5, 8])
    left = torch.tensor([8, 7, 6, 5, 4, 3, 2, 1, 0, 5, 4, 3, 2, 1, 0])
    nothing = torch.zeros(15)
    texts = torch.tensor([0] * 9 + [1] * 6)
    prompts = [[9], [4]]
    states = States(nothing[:, None], tokens, left, nothing, texts, prompts)
    # one token matched and was right 1 of 3 times (2 of the 5s were followed by another),
    # two, three and four tokens matched 1, 1 and 2 times, and were right
    shares = [(1 + 0.5) / (3 + 1), 1.5 / 2, 1.5 / 2, 2.5 / 3]
    squared = [share**2 / (share**2 + (1 - share) ** 2) for share in shares]
    assert counted_rates(states) == (0.0, *(round(rate, 2) for rate in squared))

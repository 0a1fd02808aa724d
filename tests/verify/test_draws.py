"""Draws of blocks are what the engine commits, and the target's laws are its own."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from support.tiny import similar
from support.toys import make

from mtad.api.pair import ModelPair
from mtad.engine.request import Request
from mtad.sampling.params import SamplingParams
from mtad.speculative import judging
from mtad.testing import random_llama
from mtad.verify.contexts import Context, Tally
from mtad.verify.draws import Blocks, committed
from mtad.verify.laws import Law, law_after, laws_along, read_all, readings
from mtad.verify.scores import PathScores

TARGET = random_llama()
PAIR = ModelPair(TARGET, similar(TARGET, 0.1))
SETTINGS = SamplingParams(top_k=5, temperature=1.3, repetition_penalty=1.1, max_new_tokens=20)
REQUEST = Request([3, 5, 7, 3, 5, 9], SETTINGS, output_ids=(11, 2))
METHODS = [
    make("speculative_sampling", num_draft_tokens=3),
    make("block_verification", num_draft_tokens=2),
    make("specinfer", k_config=(2, 2)),
    make("prompt_lookup", num_draft_tokens=2),
    make("mtad", num_draft_tokens=2, beam_width=2),
    make("margin", num_draft_tokens=2),
    make("autoregressive"),
]


@pytest.mark.parametrize("is_few", [True, False], ids=["candidates", "vocabulary"])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_draws_are_the_blocks_of_the_engine(
    method, is_few: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_few:
        monkeypatch.setattr(judging, "SMALL", 0)
        monkeypatch.setattr(judging, "SHARE", 0)
    scores = PathScores(PAIR, REQUEST)
    blocks = Blocks(PAIR, method, REQUEST, scores)
    drawn = [blocks.draw(7)[:20], blocks.draw(100)[:20]]
    for first_seed, some in zip((7, 100), drawn, strict=True):
        assert committed(PAIR, method, REQUEST, range(first_seed, first_seed + 20)) == some
    assert drawn[0] != drawn[1]
    blocks.close()
    scores.close()


def test_each_path_is_scored_once_and_as_the_target_scores_it() -> None:
    scores = PathScores(PAIR, REQUEST)
    for path in ((), (4,), (4, 9), (8,), (4, 9, 1)):
        before = scores.num_scored
        alone = read_all(PAIR, [*REQUEST.text_ids, *path], num_last=1)[0]
        torch.testing.assert_close(scores.after(path), alone, rtol=0, atol=1e-4)
        again = scores.num_scored
        scores.after(path)
        assert before < again == scores.num_scored


@pytest.mark.parametrize("is_few", [True, False], ids=["candidates", "vocabulary"])
def test_paths_are_forgotten_but_for_those_that_were_asked_for(
    is_few: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before every draw, whose few rows draft other paths than those of the last one."""
    if is_few:
        monkeypatch.setattr(judging, "SMALL", 0)
        monkeypatch.setattr(judging, "SHARE", 0)
    monkeypatch.setattr("mtad.verify.scores.MOST_NUMBERS", 1)
    monkeypatch.setattr("mtad.verify.scores.MOST_NODES", 8)
    monkeypatch.setattr("mtad.verify.draws.MOST_ROWS", 8)
    pair, method = ModelPair(TARGET, similar(TARGET, 0.02)), METHODS[0]
    scores = PathScores(pair, REQUEST)
    asked = scores.after((4,)).clone()
    blocks = Blocks(pair, method, REQUEST, scores)
    scored = []
    for seed in (0, 300, 600, 900, 0):
        before = scores.num_scored
        some = blocks.draw(seed)
        scored.append(scores.num_scored - before)
        assert committed(pair, method, REQUEST, range(seed, seed + 8)) == some
    assert scored[0] == scored[-1] > 0, "what was forgotten is scored again, and nothing else"
    scores._forget()
    assert len(scores._nodes) == scores._num_known == len(scores._ids) + 1 == 2
    assert scores._ids == {(0, 4): 1} and torch.equal(scores._logits[torch.tensor(1)], asked)


def test_laws_agree_whichever_way_they_are_read() -> None:
    scores, path = PathScores(PAIR, REQUEST), (4, 9)
    law = law_after(PAIR, REQUEST, path, scores.after(path))
    assert law.probs.sum() == pytest.approx(1.0) and np.count_nonzero(law.probs) == 5
    assert max(law.distance(other) for other in readings(PAIR, REQUEST, path)) < 1e-5
    logits = read_all(PAIR, [*REQUEST.text_ids, *path])[len(REQUEST.text_ids) - 1 :]
    np.testing.assert_allclose(laws_along(PAIR, REQUEST, path, logits)[-1], law.probs, atol=1e-5)


def test_a_tally_completes_blocks_that_end_early() -> None:
    """Blocks of one token of a law, then the completion's law: the second token has it."""
    one, two = np.array([0.5, 0.5, 0.0]), np.array([0.2, 0.3, 0.5])
    contexts = [Context.of((), 1.0, Law(one, one)), Context.of((1,), 0.5, Law(two, two))]
    tally = Tally(contexts, seed=0)
    tally.add([(0,)] * 500 + [(1,)] * 4000 + [(1, 2, 0)] * 1000)
    first, second = tally.after()
    assert first == Counter({0: 500, 1: 5000})
    assert sum(second.values()) == 5000 and second[2] > 1000
    assert second[0] / 4000 == pytest.approx(0.2, abs=0.03)
    assert tally.after() == [first, second]


def test_bins_hold_what_is_expected_often_and_the_rest_is_judged_apart() -> None:
    law = np.array([0.6, 0.3, 0.0995, 0.0005, 0.0])
    bins = Context.of((), 1.0, Law(law, law)).bins(1000)
    assert (list(bins.tokens), bins.df) == ([0, 1, 2], 2)
    assert bins.rare == pytest.approx(0.0005)
    fine = bins.judge(Counter({0: 600, 1: 300, 2: 99, 3: 1}))
    assert fine.p > 0.1 and fine.rare == 1
    assert bins.judge(Counter({0: 600, 1: 300, 2: 90, 3: 10})).p < 1e-6
    law = np.array([0.6, 0.4, 0.0])
    never = Context.of((), 1.0, Law(law, law)).bins(1000)
    assert never.judge(Counter({0: 600, 1: 399, 2: 1})).p == 0.0
    many = np.full(100, 0.01)
    lumped = Context.of((), 1.0, Law(many, many)).bins(5000)
    assert len(lumped.tokens) == 5 and lumped.df == 5 and lumped.rare == 0.0

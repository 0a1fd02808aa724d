"""Candidates instead of the vocabulary: the same laws, the same texts, whoever shares the batch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from support.tiny import VOCAB, honours, similar, some_variants, tiny_model, variants
from support.toys import decode_all, prefix_of

import mtad.engine.session
from mtad.engine.session import Request
from mtad.sampling import warper as sampling
from mtad.sampling.params import SamplingParams
from mtad.sampling.truncation import candidates, spread
from mtad.sampling.warper import Warper
from mtad.speculative.method import Method

CPU = torch.device("cpu")
TRUNCATED: dict[str, Any] = {
    "top_k": 5,
    "min_p": 0.1,
    "repetition_penalty": 1.3,
    "min_new_tokens": 3,
}
SETTINGS: list[dict[str, Any]] = [
    {"top_k": 4},
    {"top_k": 3, "top_p": 0.7, "temperature": 0.6},
    TRUNCATED,
    {"temperature": 0.0},
    {"top_k": 1},
]
SOME_METHODS = some_variants(
    but={m.name for m in variants() if not honours(m, **TRUNCATED)},
    fast=("autoregressive", "mcss", "mtad"),
)
"""The short cut is the warper's: one method of each way to draft stands for all."""


def whole(warp: Warper) -> Warper:
    """The warper without its short cut."""
    return replace(warp, width=warp.vocab)


@pytest.mark.parametrize("given", SETTINGS, ids=str)
@pytest.mark.parametrize("coarse", [True, False], ids=["ties", "no ties"])
def test_laws_are_those_of_the_whole_vocabulary(given: dict[str, Any], coarse: bool) -> None:
    logits = 3 * torch.randn(50, 4, 300, generator=torch.Generator().manual_seed(1))
    if coarse:
        logits = (logits * 2).round() / 2  # a dozen tokens tie with the k-th
    prefix = prefix_of([[0, 5]] * 50)
    warp = Warper.of([SamplingParams(**given)] * 50, 300, CPU).at(prefix)
    tree, nodes = prefix.root(), slice(0, 1)
    assert warp.width < 300
    for node in logits.split(1, dim=1):
        short, long = warp(node, tree, nodes), whole(warp)(node, tree, nodes)
        assert torch.equal(short > -torch.inf, long > -torch.inf)
        assert torch.allclose(short.exp(), long.exp(), atol=1e-6)


def test_one_row_without_top_k_makes_all_rows_look_at_the_vocabulary() -> None:
    rows = [SamplingParams(top_k=2), SamplingParams(top_k=0)]
    assert Warper.of(rows, 300, CPU).width == 300
    assert Warper.of([rows[0], SamplingParams(temperature=0.0)], 300, CPU).width < 300


def test_candidates_ascend_and_spread_back() -> None:
    scores = torch.tensor([[[3.0, 9.0, 1.0, 7.0]]])
    ids = candidates(scores, 2)
    assert ids.tolist() == [[[1, 3]]]
    assert spread(scores.gather(2, ids), ids, 4).tolist() == [[[-torch.inf, 9, -torch.inf, 7]]]


@pytest.mark.slow
@pytest.mark.parametrize("method", SOME_METHODS)
def test_texts_do_not_depend_on_the_short_cut(
    method: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "TIES", 2)  # so that few of the tiny vocabulary are candidates
    target = tiny_model("llama")
    models = target, similar(target, 0.3)
    params = SamplingParams(**TRUNCATED, max_new_tokens=9)
    requests = [Request([3, 1, 4], replace(params, seed=s)) for s in range(6)]
    short = decode_all(*models, method, requests, VOCAB)
    monkeypatch.setattr(Warper, "of", lambda *args: whole(of(*args)))
    assert short == decode_all(*models, method, requests, VOCAB)


of = mtad.engine.session.Warper.of


@pytest.mark.parametrize("method", SOME_METHODS)
def test_a_neighbour_with_a_larger_top_k_changes_nothing(method: Method) -> None:
    target = tiny_model("llama")
    models = target, similar(target, 0.3)
    one = Request([3, 1, 4], SamplingParams(top_k=2, max_new_tokens=9, seed=5))
    other = Request([2, 7], SamplingParams(top_k=7, max_new_tokens=9, seed=6))
    alone = decode_all(*models, method, [one], VOCAB)
    assert decode_all(*models, method, [one, other], VOCAB)[0] == alone[0]


@pytest.mark.parametrize("vocab", [8256, 9000])
@pytest.mark.parametrize("width", [1, 2, 26])
def test_candidates_of_a_large_vocabulary_are_the_largest(vocab: int, width: int) -> None:
    scores = torch.randn(2, 3, vocab, generator=torch.Generator().manual_seed(2))
    scores[0, 0, :100] = 5 + torch.arange(100.0)  # neighbours: one block has them all
    scores[1, 2, 40:] = -torch.inf
    ids = candidates(scores, width)
    assert torch.equal(ids, ids.sort(-1).values)
    wanted = scores.sort(-1, descending=True).values[..., :width]
    assert torch.equal(scores.gather(-1, ids).sort(-1, descending=True).values, wanted)


@pytest.mark.parametrize("allowed", [[8998, 8999], [5], []], ids=["last", "early", "none"])
@pytest.mark.parametrize("width", [1, 2, 26])
def test_candidates_of_a_large_vocabulary_are_tokens_where_few_are_allowed(
    allowed: list[int], width: int
) -> None:
    scores = torch.full((2, 1, 9000), -torch.inf)
    scores[1, :, allowed] = 1.0
    for ids in candidates(scores, width).flatten(0, 1).tolist():
        assert len(set(ids)) == width and max(ids) < 9000
    assert set(allowed[:width]) <= set(ids)


@pytest.mark.parametrize("vocab", [300, 9000])
def test_greedy_rows_have_one_candidate_the_first_of_equal_ones(vocab: int) -> None:
    rows = [SamplingParams(temperature=0.0, top_k=7), SamplingParams(temperature=0.0)]
    warp, prefix = Warper.of(rows, vocab, CPU), prefix_of([[0, 5]] * 2)
    logits = torch.zeros(2, 1, vocab)
    logits[0, 0, [5, 70, 200]] = 1.0
    logprobs, ids = warp.at(prefix).compact(logits, prefix.root())
    assert ids is not None
    assert (ids.tolist(), logprobs.tolist()) == ([[[5]], [[0]]], [[[0.0]], [[0.0]]])


def test_greedy_rows_beside_others_do_not_widen_what_is_looked_at() -> None:
    rows = [SamplingParams(top_k=3), SamplingParams(temperature=0.0, top_k=200)]
    assert Warper.of(rows, 300, CPU).width == 3 + sampling.TIES

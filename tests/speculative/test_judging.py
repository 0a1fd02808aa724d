"""Judging a tree on few tokens gives what judging it on the vocabulary gives."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from support.tiny import VOCAB, label, similar, some_names, tiny_model, variants
from support.toys import MarkovPair, decode_all, iterate, make

from mtad.core.noise import Noise
from mtad.core.sparse import SparseLogprobs
from mtad.engine.request import Request
from mtad.sampling import warper
from mtad.sampling.params import SamplingParams
from mtad.speculative import judging
from mtad.speculative.drafting import LevelLogprobs
from mtad.speculative.judging import judge
from mtad.speculative.method import Method
from mtad.testing import TOY_DRAFT, TOY_TARGET

PAIR = MarkovPair.of(TOY_TARGET, TOY_DRAFT)
TEXTS = [[0, number % 3] for number in range(60)]
JUDGING = [method for method in variants() if method.judges_candidates]
SETTINGS: list[dict[str, Any]] = [{"top_k": 2}, {"top_k": 2, "top_p": 0.7}, {"temperature": 0.0}]
NOISE = Noise(torch.arange(len(TEXTS)), torch.ones(len(TEXTS), dtype=torch.int64))


@pytest.fixture(autouse=True)
def _small_vocabularies_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few of a toy's tokens are candidates, and they are judged however few others there are."""
    monkeypatch.setattr(warper, "TIES", 1)
    monkeypatch.setattr(judging, "SMALL", 0)
    monkeypatch.setattr(judging, "SHARE", 0)


@pytest.mark.parametrize("method", JUDGING, ids=label)
def test_few_tokens_are_judged_as_the_vocabulary_is(
    method: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    widths: list[int] = []
    for settings in SETTINGS:
        if method.ratio_on == "warped":
            seen = iterate(PAIR, method, TEXTS, **settings)
            monkeypatch.setattr(judging._Warped, "__call__", _noting(widths))
            few = judge(method, seen.tree, seen.target_logits, seen.warp, NOISE)
            whole = method.verify(seen.tree, seen.target_logits, seen.warp, NOISE)
            for name, values in vars(whole).items():
                found = getattr(few, name)
                if name == "ledger" and values is not None:  # its sums are of fewer numbers
                    torch.testing.assert_close(found, values, rtol=0, atol=1e-6)
                else:
                    assert found is values or torch.equal(found, values), name
    # distinct children of temperature 0 may be any tokens
    assert len(widths) >= (2 if method.ratio_on == "warped" else 0)


def _noting(widths: list[int]) -> Any:
    def call(self: Any, logits: torch.Tensor, tree: Any, nodes: slice | None = None) -> Any:
        widths.append(logits.shape[-1])
        return logits if nodes is None else logits[:, nodes]

    return call


@pytest.mark.parametrize("name", some_names(lambda m: m.judges_candidates))
def test_texts_do_not_depend_on_how_many_tokens_are_judged(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, method = tiny_model("llama"), make(name)
    models = target, similar(target, 0.3)
    params = SamplingParams(top_k=3, top_p=0.9, repetition_penalty=1.3, max_new_tokens=9)
    greedy = replace(params, temperature=0.0)
    requests = [Request([3, 1, 4], replace(p, seed=s)) for s in range(4) for p in (params, greedy)]
    few = decode_all(*models, method, requests, VOCAB)
    monkeypatch.setattr(judging, "SMALL", VOCAB)
    assert few == decode_all(*models, method, requests, VOCAB)


def test_a_small_vocabulary_stays_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "SMALL", PAIR.vocab)
    monkeypatch.setattr(judging._Warped, "__call__", None)
    method = make("mtad")
    seen = iterate(PAIR, method, TEXTS, top_k=2)
    few = judge(method, seen.tree, seen.target_logits, seen.warp, NOISE)
    whole = method.verify(seen.tree, seen.target_logits, seen.warp, NOISE)
    assert torch.equal(few.next_token, whole.next_token)


def test_who_asks_for_more_than_it_says_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    method = make("bild")
    monkeypatch.setattr(type(method), "judges_candidates", True)
    seen = iterate(PAIR, method, TEXTS, top_k=2)
    with pytest.raises(AssertionError, match="asks for warp"):
        judge(method, seen.tree, seen.target_logits, seen.warp, NOISE)


def test_a_token_that_is_there_twice_keeps_its_probability() -> None:
    ids, never = torch.tensor([[[1, 4, 6]]]), -torch.inf
    copied = torch.tensor([[4]])
    level = LevelLogprobs(torch.tensor([[[-2.0, never, -3.0, -0.5]]]), ids, None, 8, copied)
    law = level.law
    assert isinstance(law, SparseLogprobs)
    wanted = [never, -2.0, never, never, -0.5, never, -3.0, never]
    assert law.dense()[0, 0].tolist() == level.dense()[0, 0].tolist() == wanted
    tokens = torch.tensor([[1, 4, 4, 6, 7]])
    assert law.over(tokens)[0, 0].tolist() == [-2.0, -0.5, never, -3.0, never]

"""Calls of more prompts than are decoded at once: who joins when; no text depends on it."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import replace

import pytest
from support.saved_pair import pair

from mtad.api.pair import Completion, ModelPair
from mtad.engine.session import Session
from mtad.engine.step import Step
from mtad.methods.mtad import MTAD
from mtad.methods.speculative_sampling import SpeculativeSampling

PROMPTS = [[40 + i, *range(3, 5 + i)] for i in range(12)]
ENDS = {"stop": ["e", "a", "t"], "max_new_tokens": 40, "ignore_eos": True}
"""Texts end at these letters, hence at various lengths."""


class Watch:
    """The sessions' rows at every iteration, and the groups that joined."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: list[int] = []
        self.groups: list[int] = []
        self.caches: set[int] = set()
        step, join = Session.step, Session.join

        def watched_step(session: Session) -> Step:
            self.rows.append(len(session.rows))
            self.caches |= {a for lm in session.lms for a in getattr(lm, "addresses", ())}
            return step(session)

        def watched_join(session: Session, requests: Sequence[object]) -> list[int]:
            self.groups += [len(requests)] if requests else []
            return join(session, requests)  # type: ignore[arg-type]

        monkeypatch.setattr(Session, "step", watched_step)
        monkeypatch.setattr(Session, "join", watched_join)


def num_iterations(texts: Sequence[Completion], max_rows: int) -> int:
    """Iterations of texts that each begin as soon as one before them has ended."""
    ends: list[int] = []
    for text in texts:
        began = heapq.heappop(ends) if len(ends) == max_rows else 0
        heapq.heappush(ends, began + len(text.blocks))
    return max(ends)


@pytest.mark.slow
@pytest.mark.parametrize("method", [MTAD(), SpeculativeSampling()])
def test_a_text_that_ends_makes_room_for_the_next(
    method: MTAD | SpeculativeSampling, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds = range(len(PROMPTS))
    alone = [
        pair().generate(p, method, seed=s, guard=False, **ENDS)[0]
        for p, s in zip(PROMPTS, seeds, strict=True)
    ]
    assert len({len(text.blocks) for text in alone}) > 3
    watch = Watch(monkeypatch)
    made = pair().generate(PROMPTS, method, seed=seeds, max_batch_size=3, guard=False, **ENDS)
    assert [text.token_ids for text in made] == [text.token_ids for text in alone]
    assert [text.blocks for text in made] == [
        [replace(b, request=i) for b in text.blocks] for i, text in enumerate(alone)
    ]
    assert len(watch.rows) == num_iterations(alone, 3)
    assert max(watch.rows) == 3 and watch.groups[0] == 3
    assert all(text.stats.decode_s > 0 and text.stats.prefill_s > 0 for text in made)


@pytest.mark.slow
def test_the_guard_leaves_greedy_texts_alone_as_others_join() -> None:
    greedy = {"temperature": 0.0, "max_batch_size": 3} | ENDS
    guarded = pair().generate(PROMPTS, SpeculativeSampling(), guard=True, **greedy)
    plain = pair().generate(PROMPTS, "autoregressive", **greedy)
    assert [text.token_ids for text in guarded] == [text.token_ids for text in plain]


@pytest.mark.slow
def test_one_row_in_eight_is_free_before_the_next_prefill(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [[40 + i % 20, *range(3, 5 + i % 7)] for i in range(40)]
    watch = Watch(monkeypatch)
    made = pair().generate(prompts, seed=range(40), max_batch_size=16, **ENDS)
    assert len(made) == 40 and sum(watch.groups) == 40 and watch.groups[0] == 16
    assert all(size >= 2 for size in watch.groups[:-1])  # the last one may be what is left


def test_the_caches_stay_where_they_are_as_longer_prompts_join(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watch, fresh = Watch(monkeypatch), ModelPair.of(pair().models)
    fresh.generate([[40], [41], [42] * 90], "autoregressive", seed=1, max_batch_size=1, **ENDS)
    layers = pair().models.target.config.num_hidden_layers
    assert len(watch.caches) == 2 * layers


def test_many_texts_without_a_budget() -> None:
    made = pair().generate(PROMPTS, seed=1, max_batch_size=2, max_new_tokens=0)
    assert [(text.token_ids, text.finish_reason) for text in made] == [([], "length")] * 12


@pytest.mark.slow
def test_prompts_that_begin_alike_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    watch, same = Watch(monkeypatch), [40 + i % 9 for i in range(80)]
    prompts = [[*same, 40 + i, 41] for i in range(4)] + [[50, 51, 52]]
    fresh = ModelPair.of(pair().models)
    made = fresh.generate(prompts, seed=1, max_new_tokens=4, ignore_eos=True)
    assert [text.stats.num_cached_tokens for text in made] == [0, 80, 80, 80, 0]
    assert watch.groups == [2, 3]
    again = fresh.generate(prompts, seed=1, max_new_tokens=4, ignore_eos=True)
    assert watch.groups == [2, 3, 5], "what the cache has needs no round of its own"
    none = ModelPair.of(pair().models, prefix_cache_mib=0)
    assert [text.stats.num_cached_tokens for text in none.generate(prompts, seed=1)] == [0] * 5
    assert watch.groups[3:] == [5]
    assert [text.token_ids for text in made] == [text.token_ids for text in again]

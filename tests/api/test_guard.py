"""The guard: what it decides from made-up seconds, and that its decisions leave texts alone."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from support import oracles
from support.caches import assert_fresh
from support.guarded import CHAIN, Meter, scripted, watched
from support.tiny import (
    PROMPTS,
    VOCAB,
    block_length,
    label,
    methods_that,
    opposite,
    similar,
    tiny_model,
)
from support.toy_texts import EMPTY, LENGTH, ONE_EACH, P, plain_law
from support.toys import MarkovPair, assert_law, make, requests_of

from mtad.api.guard import (
    BUDGET,
    GAP,
    MARGINS,
    MIN_DRAFTED,
    PLAIN,
    WARM_UP,
    Guard,
    iterations,
    wants_guard,
)
from mtad.api.pair import ModelPair
from mtad.cli.options import make_method
from mtad.cli.settings import Settings
from mtad.cli.terminal import summary
from mtad.engine.session import Session
from mtad.engine.stats import Stats, total
from mtad.engine.workspace import Workspace
from mtad.methods.mtad import MTAD
from mtad.methods.specinfer import SpecInfer
from mtad.methods.speculative_sampling import SpeculativeSampling
from mtad.model.lm import Model
from mtad.runtime.cpu_tapes import Tapes
from mtad.speculative.method import Method

SOONEST = WARM_UP + MIN_DRAFTED
Tokens = Callable[[int], Sequence[int]]
Seconds = Callable[[Method], float]


def always(*tokens: int) -> Tokens:
    return lambda iteration: tokens


def simulate(guard: Guard, seconds: Seconds, tokens: Tokens, num: int = 200) -> list[Method]:
    """What the guard chose, iteration by iteration, where the world is as the functions say."""
    chosen = []
    for iteration in range(num):
        method = guard.choose()
        chosen.append(method)
        if method is PLAIN:
            guard.add_plain(seconds(method))
        else:
            longest = getattr(method, "num_draft_tokens", 99) + 1
            guard.add_drafted(seconds(method), [min(n, longest) for n in tokens(iteration)])
    return chosen


def costs(drafted: float, plain: float = 1.0) -> Seconds:
    return lambda method: plain if method is PLAIN else drafted


# --- decisions --------------------------------------------------------------------------------


def test_a_useless_draft_is_given_up_for_good() -> None:
    guard = Guard(CHAIN)
    chosen = simulate(guard, costs(1.5), always(1))
    assert guard.has_given_up and chosen[:SOONEST] == [CHAIN] * SOONEST
    last = max(i for i, method in enumerate(chosen) if method is CHAIN)
    assert last < SOONEST + len(MARGINS) * (GAP + 1)
    assert guard.reason == (
        f"plain decoding after {last + 2} iterations: with drafts 1500.0 ms for 1.0 tokens, "
        "without 1000.0 ms a token"
    )


def test_a_dear_draft_is_given_up_after_one_plain_step() -> None:
    guard = Guard(CHAIN)
    chosen = simulate(guard, costs(4.0), lambda i: [1 + 2 * (i % 2)])
    assert chosen == [CHAIN] * SOONEST + [PLAIN] * (200 - SOONEST)


@pytest.mark.parametrize("seconds", [1.2, 1.5, 2.0])
@pytest.mark.parametrize("num", [40, 1000])
def test_a_good_draft_is_kept_and_watching_it_costs_little(seconds: float, num: int) -> None:
    """At most the budget and one plain step in advance."""
    guard = Guard(CHAIN)
    chosen = simulate(guard, costs(seconds), always(3), num)
    assert guard.reason is None and guard.method is CHAIN
    num_plain = chosen.count(PLAIN)
    wasted = num_plain * (1.0 - seconds / 3)
    assert 0 < wasted <= BUDGET * (num_plain + seconds * (num - num_plain)) + 1 - seconds / 3


def test_times_of_different_paces_are_not_compared() -> None:
    """An eager plain step says nothing about drafts that are replayed from a tape."""
    guard = Guard(CHAIN)
    for _ in range(SOONEST):
        guard.add_drafted(1.5, [1], "eager")
    guard.add_drafted(0.5, [1], "captured")
    for _ in range(SOONEST):
        guard.add_drafted(0.5, [1], "captured")
        guard.add_plain(1.0, mode="eager")
        assert guard.choose() is not None and not guard.has_given_up
    for _ in MARGINS:
        guard.add_plain(0.2, mode="captured")
    assert guard.choose() is PLAIN and guard.has_given_up


def test_plain_steps_that_cannot_be_judged_by_are_not_taken_for_ever() -> None:
    """Drafted iterations still run eagerly where plain ones have a tape already."""
    guard = Guard(CHAIN)
    chosen = []
    for _ in range(60):
        chosen.append(guard.choose())
        if chosen[-1] is PLAIN:
            guard.add_plain(1.0, mode="captured")
        else:
            guard.add_drafted(1.5, [3])
    assert chosen.count(PLAIN) == 1


def test_iterations_in_which_something_was_captured_are_not_judged() -> None:
    guard = Guard(CHAIN)
    for _ in range(SOONEST):
        guard.add_drafted(1.0, [3])
        guard.add_capture(100.0)
    guard.add_plain(1.0)
    guard.choose()
    assert guard.reason is None


def test_a_session_with_tapes_is_judged_by_what_was_played() -> None:
    target = tiny_model("llama")
    tapes = Tapes(patience=2)
    (request,) = requests_of([PROMPTS[0]], max_new_tokens=90)
    with torch.inference_mode():
        session = Session(
            target, opposite(target), CHAIN, [request], VOCAB, workspace=Workspace(tapes)
        )
    guard, now = Guard(CHAIN), [0.0]

    def clock() -> float:
        now[0] += 3.0 if session.method is CHAIN else 1.0
        return now[0]

    paces = [(session.method is PLAIN, tapes.last_mode) for _ in iterations(session, guard, clock)]
    assert guard.has_given_up and guard.mode in ("eager", "captured")
    assert (False, "capturing") in paces


def test_less_than_the_margin_is_not_worth_a_change() -> None:
    assert MARGINS[-1] == 1.05
    for seconds, expected in [(3 * 1.03, False), (3 * 1.5, True)]:
        guard = Guard(SpecInfer())
        simulate(guard, costs(seconds), always(3), num=1000)
        assert guard.has_given_up is expected


def test_one_slow_plain_step_does_not_hide_that_plain_is_faster() -> None:
    guard, paid = Guard(CHAIN), iter([9.0])
    simulate(guard, lambda m: next(paid, 1.0) if m is PLAIN else 2.0, always(1), num=60)
    assert guard.has_given_up


def noisy(rng: random.Random, drafted: float) -> Seconds:
    """Seconds that spread by a tenth, every tenth of them three times too long."""

    def seconds(method: Method) -> float:
        base = 1.0 if method is PLAIN else drafted
        return base * rng.uniform(0.95, 1.05) * (3.0 if rng.random() < 0.1 else 1.0)

    return seconds


@pytest.mark.parametrize(("drafted", "pays"), [(1.8, True), (3.6, False), (6.0, False)])
def test_noise_seldom_misleads(drafted: float, pays: bool) -> None:
    """A draft of four, each accepted with chance 0.7: 2.8 tokens an iteration."""

    def accepted(rng: random.Random) -> Tokens:
        def tokens(_: int) -> list[int]:
            return [1 + next((i for i in range(4) if rng.random() > 0.7), 4)]

        return tokens

    num_plain = 0
    for seed in range(100):
        rng, guard = random.Random(seed), Guard(SpecInfer())
        simulate(guard, noisy(rng, drafted), accepted(rng), num=300)
        num_plain += guard.has_given_up
    assert num_plain <= 2 if pays else num_plain >= 98


def test_a_text_that_becomes_hard_is_noticed() -> None:
    guard = Guard(CHAIN)
    simulate(guard, costs(1.5), lambda i: [4] if i < 100 else [1], num=100)
    assert guard.reason is None
    simulate(guard, costs(1.5), always(1), num=80)
    assert guard.has_given_up


def test_every_row_counts() -> None:
    """Two rows of which one is easy: 2.5 tokens, where the hard one alone would not pay."""
    both, hard = Guard(CHAIN), Guard(CHAIN)
    simulate(both, costs(1.8), always(4, 1))
    simulate(hard, costs(1.8), always(1))
    assert (both.has_given_up, hard.has_given_up) == (False, True)


# --- shorter drafts ---------------------------------------------------------------------------


def by_length(per_token: float) -> Seconds:
    return lambda m: 1.0 + per_token * getattr(m, "num_draft_tokens", 0)


def test_the_shorter_draft_that_is_predicted_to_be_fastest_is_taken() -> None:
    """The first two of eight tokens are always right: 2/3 s a token instead of 5/3."""
    guard = Guard(SpeculativeSampling(num_draft_tokens=8))
    chosen = simulate(guard, by_length(0.5), always(3), num=400)
    assert guard.method == SpeculativeSampling(num_draft_tokens=2)
    assert not guard.has_given_up and chosen[-1] == guard.method
    assert guard.reason is not None and guard.reason.startswith("2 draft tokens after ")


def test_a_shorter_draft_that_does_not_pay_either_is_given_up() -> None:
    """Shorter drafts cost as much as the long one, against the prediction."""
    guard = Guard(SpeculativeSampling(num_draft_tokens=8))
    chosen = simulate(guard, costs(5.0), always(3), num=400)
    assert guard.has_given_up and SpeculativeSampling(num_draft_tokens=2) in chosen


def test_one_draft_token_is_called_so() -> None:
    guard = Guard(SpeculativeSampling(num_draft_tokens=6))
    simulate(guard, by_length(0.5), always(2), num=100)
    assert guard.reason is not None and guard.reason.startswith("1 draft token after ")


def test_a_tree_has_no_shorter_draft() -> None:
    guard = Guard(SpecInfer())
    chosen = simulate(guard, costs(5.0), always(3))
    assert guard.has_given_up and set(chosen) == {SpecInfer(), PLAIN}


def test_the_reason_says_that_a_lossy_methods_distribution_is_left() -> None:
    guard = Guard(MTAD())
    simulate(guard, costs(9.0), always(1))
    assert guard.reason is not None
    assert guard.reason.endswith("the text follows the target's distribution, not that of mtad")


# --- who is watched ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "has_seed", "is_greedy", "expected"),
    [
        (CHAIN, False, False, True),
        (CHAIN, True, False, False),
        (CHAIN, True, True, True),
        (make("prompt_lookup"), False, False, True),
        (SpeculativeSampling(accept_threshold=0.5), False, True, False),
        (MTAD(), False, False, False),
        (MTAD(), True, True, False),
        (PLAIN, False, True, False),
        (make("mtjd"), False, True, False),
    ],
)
def test_the_default_keeps_the_law_and_what_a_seed_gives(
    method: Method, has_seed: bool, is_greedy: bool, expected: bool
) -> None:
    assert wants_guard(method, None, has_seed, is_greedy) is expected
    assert wants_guard(method, False, has_seed, is_greedy) is False
    if method.drafter == "target":
        with pytest.raises(ValueError, match="mtjd searches with the target itself"):
            wants_guard(method, True, has_seed, is_greedy)
    else:
        assert wants_guard(method, True, has_seed, is_greedy) is (method != PLAIN)


# --- sessions whose clock is moved by forwards alone ------------------------------------------


@pytest.fixture(scope="module")
def target() -> Model:
    return tiny_model("llama")


def test_a_useless_draft_is_given_up_and_the_text_stays(target, monkeypatch) -> None:
    pair = ModelPair(target, opposite(target))
    meter = Meter(monkeypatch, draft=0.1)
    [done] = watched(pair, monkeypatch, meter)
    [plain] = watched(pair, monkeypatch, meter, method=PLAIN)
    assert done.token_ids == plain.token_ids
    stats = done.stats
    assert stats.fallback is not None and stats.fallback.startswith("plain decoding after ")
    assert "with drafts 1400.0 ms for 1.0 tokens, without 1000.0 ms a token" in stats.fallback
    assert stats.num_plain_steps == sum(b.num_drafted == 0 for b in done.blocks)
    assert 40 - 15 < stats.num_plain_steps < 40
    assert plain.stats.fallback is None and plain.stats.num_plain_steps == 0
    assert stats.decode_s == pytest.approx(plain.stats.decode_s, rel=0.2)


def test_a_dear_draft_is_given_up(target, monkeypatch) -> None:
    """A draft phase that costs three forwards of the target."""
    pair, meter = ModelPair(target, similar(target)), Meter(monkeypatch, draft=0.75)
    [done] = watched(pair, monkeypatch, meter, max_new_tokens=60)
    assert done.stats.fallback is not None and "with drafts 4000.0 ms" in done.stats.fallback
    meter = Meter(monkeypatch, draft=1.0)
    [done] = watched(pair, monkeypatch, meter, method=SpecInfer(k_config=(1, 1, 1)))
    assert done.stats.fallback is not None and "plain decoding after 8 " in done.stats.fallback


def test_a_draft_that_is_always_right_can_be_too_dear(target, monkeypatch) -> None:
    """Nine seconds for five tokens."""
    pair, meter = ModelPair(target, target), Meter(monkeypatch, draft=2.0)
    [done] = watched(pair, monkeypatch, meter, max_new_tokens=120)
    assert done.stats.fallback is not None and done.stats.num_plain_steps > 50


def test_a_lookup_that_finds_nothing_is_given_up(target, monkeypatch) -> None:
    meter = Meter(monkeypatch, draft=0.0, node=0.05)
    method = make("prompt_lookup", max_matching_ngram_size=1)
    settings = {"temperature": 5.0, "seed": 3, "guard": True}
    [done] = watched(ModelPair(target), monkeypatch, meter, method=method, **settings)
    assert done.stats.fallback is not None


def test_a_good_draft_is_kept(target, monkeypatch) -> None:
    pair = ModelPair(target, target)
    [done] = watched(pair, monkeypatch, Meter(monkeypatch, draft=0.1), max_new_tokens=150)
    assert done.stats.fallback is None
    assert done.stats.num_plain_steps == 1
    assert done.stats.num_spec_steps == pytest.approx(150 / 5, abs=2)


def test_a_batch_falls_back_together_and_each_batch_is_judged_anew(target, monkeypatch) -> None:
    pair = ModelPair(target, opposite(target))
    meter = Meter(monkeypatch, draft=0.5)
    monkeypatch.setattr("mtad.api.pair.time", SimpleNamespace(perf_counter=meter))
    pair.graphs = None  # the meter sees no forwards in what is replayed from a tape
    params = {"temperature": 0.0, "max_new_tokens": 30, "ignore_eos": True}
    done = pair.generate(PROMPTS, CHAIN, max_batch_size=2, **params)
    first, second, third = (c.stats for c in done)
    assert first.fallback == second.fallback is not None
    assert all(c.blocks[0].num_drafted > 0 for c in done), "the last batch begins with drafts"
    assert third.fallback == first.fallback


def test_texts_that_end_first_say_nothing_of_the_fall_back(target, monkeypatch) -> None:
    pair = ModelPair(target, opposite(target))
    meter = Meter(monkeypatch, draft=0.5)
    monkeypatch.setattr("mtad.api.pair.time", SimpleNamespace(perf_counter=meter))
    pair.graphs = None  # the meter sees no forwards in what is replayed from a tape
    ends = [pair.generate(PROMPTS[:1], CHAIN, temperature=0.0, max_new_tokens=n) for n in (3, 30)]
    assert [c.stats.fallback is None for [c] in ends] == [True, False]


def test_a_seed_gives_its_text_whatever_the_clock_says(target, monkeypatch) -> None:
    pair = ModelPair(target, similar(target))
    drawn = {"temperature": 1.0, "max_new_tokens": 60}
    cheap, dear = Meter(monkeypatch, draft=0.0), Meter(monkeypatch, draft=5.0)
    [one] = watched(pair, monkeypatch, cheap, seed=7, **drawn)
    [other] = watched(pair, monkeypatch, dear, seed=7, **drawn)
    assert one.token_ids == other.token_ids
    assert other.stats.fallback is None and other.stats.num_plain_steps == 0
    [forced] = watched(pair, monkeypatch, dear, seed=7, guard=True, **drawn)
    assert forced.stats.fallback is not None
    [free] = watched(pair, monkeypatch, dear, **drawn)
    assert free.stats.fallback is not None
    [unwatched] = watched(pair, monkeypatch, dear, guard=False, **drawn)
    assert unwatched.stats.fallback is None and unwatched.stats.num_plain_steps == 0


def test_a_lossy_method_is_watched_only_if_asked(target, monkeypatch) -> None:
    pair = ModelPair(target, opposite(target))
    meter = Meter(monkeypatch, draft=1.0)
    [left] = watched(pair, monkeypatch, meter, method=MTAD(accept_threshold=0.9))
    assert left.stats.fallback is None
    [asked] = watched(pair, monkeypatch, meter, method=MTAD(accept_threshold=0.9), guard=True)
    assert asked.stats.fallback is not None
    assert asked.stats.fallback.endswith("the target's distribution, not that of mtad")


# --- whatever the guard chooses, caches and laws stay right -----------------------------------


def drafts(method: Method) -> bool:
    return method.drafter != "target" and method != PLAIN


@pytest.mark.parametrize("script", ["ddppspd."])
@pytest.mark.parametrize("method", methods_that(drafts), ids=label)
def test_caches_stay_fresh_after_plain_steps(target, method: Method, script: str) -> None:
    """A draft equal to the target accepts whole blocks, and its cache lags behind the most.

    Looked at only before a draft phase: the look itself feeds the last two tokens.
    """
    requests = requests_of(PROMPTS, max_new_tokens=3 * (block_length(method) + 2))
    texts = [list(request.prompt_ids) for request in requests]
    for session, guard, iteration in scripted(target, target, method, requests, VOCAB, script):
        for block in iteration.step.blocks:
            texts[block.request] += block.token_ids
        running = [texts[request] for request in session.rows]
        if not running or not iteration.is_plain or guard.script[guard.place % len(script)] == "p":
            continue
        for lm in session.lms:
            if not (guard.has_given_up and lm is session.drafter):
                with torch.inference_mode():
                    assert_fresh(lm, running, last_slot_may_lag=lm is session.drafter)


class Listening(Guard):
    """Remembers the tokens of each drafted iteration."""

    def __init__(self, method: Method) -> None:
        super().__init__(method)
        self.tokens: list[list[int]] = []

    def add_drafted(self, seconds: float, tokens: Sequence[int], mode: str = "eager") -> None:
        self.tokens.append(list(tokens))


def test_blocks_that_the_end_of_the_text_cut_off_are_not_counted(target) -> None:
    budgets = [3, 12]
    requests = [requests_of([PROMPTS[1]], max_new_tokens=n)[0] for n in budgets]
    with torch.inference_mode():
        session = Session(target, target, CHAIN, requests, VOCAB)
    guard = Listening(CHAIN)
    assert (
        sum(
            len(b.token_ids)
            for iteration in iterations(session, guard, lambda: 0.0)
            for b in iteration.step.blocks
        )
        == 15
    )
    assert guard.tokens == [[5], [5], []]


SLOW_SCRIPTS = [pytest.param(s, marks=pytest.mark.slow) for s in ("dsp", "d.")]


@pytest.mark.parametrize("script", ["sdp.", *SLOW_SCRIPTS])
@pytest.mark.parametrize(("name", "options"), ONE_EACH[1:])
def test_the_law_of_the_text_stays(toy: MarkovPair, name: str, options: dict, script: str) -> None:
    first_seed = 1_000_000 * len(script) + 77
    requests = requests_of([EMPTY] * 2000, first_seed=first_seed, max_new_tokens=6)
    texts: list[list[int]] = [[] for _ in requests]
    method, letters = make(name, **options), []
    for session, _, iteration in scripted(
        toy.target, toy.draft, method, requests, toy.vocab, script
    ):
        letters.append(session.method is PLAIN)
        assert iteration.is_plain is letters[-1]
        for block in iteration.step.blocks:
            texts[block.request] += block.token_ids
    assert set(letters) == {True, False}
    assert_law((tuple(t[:LENGTH]) for t in texts), plain_law())


class Spiteful(Guard):
    """Drafts or not by what was accepted last: one row, so that the choice follows the text."""

    def choose(self) -> Method:
        return PLAIN if self.last_tokens == 1 else self.method

    last_tokens = 1

    def add_drafted(self, seconds: float, tokens: Sequence[int], mode: str = "eager") -> None:
        self.last_tokens = sum(tokens)

    def add_plain(self, seconds: float, aside: float = 0.0, mode: str = "eager") -> None:
        self.last_tokens = 2


def test_choices_that_follow_what_was_accepted_keep_the_law(toy: MarkovPair) -> None:
    texts = []
    for request in requests_of([EMPTY] * 150, max_new_tokens=3):
        with torch.inference_mode():
            session = Session(toy.target, toy.draft, CHAIN, [request], toy.vocab)
        steps = [
            iteration.step for iteration in iterations(session, Spiteful(CHAIN), clock=lambda: 0.0)
        ]
        tokens = [t for step in steps for block in step.blocks for t in block.token_ids]
        texts.append(tuple(tokens[:2]))
    assert_law(texts, oracles.text_law(P, EMPTY, 2))


# --- what is reported -----------------------------------------------------------------------------


def test_stats_carry_what_the_guard_did() -> None:
    stats = Stats(num_plain_steps=3, fallback="plain decoding after 9 iterations")
    read = Stats.of(json.loads(json.dumps(stats.counts())))
    assert read == stats
    assert stats.as_dict()["fallback"] == "plain decoding after 9 iterations"
    assert stats.as_dict()["num_plain_steps"] == 3
    old = {k: v for k, v in stats.counts().items() if k not in ("num_plain_steps", "fallback")}
    assert Stats.of(old) == Stats()


def test_totals_tell_how_many_fell_back() -> None:
    kept, left = Stats(num_plain_steps=1), Stats(num_plain_steps=5, fallback="why")
    assert total([kept, kept]).fallback is None
    assert total([left, left]).fallback == "why"
    both = total([kept, left, kept])
    assert both.num_plain_steps == 7
    assert both.fallback == "why (in 1 of 3 texts, the first one's reason)"


def test_the_summary_names_the_fall_back() -> None:
    facts = (SpeculativeSampling(), 7)
    assert summary(Stats(), *facts).endswith("seed 7")
    assert summary(Stats(num_plain_steps=1), *facts).endswith(" · 1 plain step of the guard")
    assert summary(Stats(num_plain_steps=2), *facts).endswith(" · 2 plain steps of the guard")
    gone = summary(Stats(num_plain_steps=2, fallback="plain decoding after 9"), *facts)
    assert gone.endswith(" · fell back to plain decoding after 9")


def test_the_flag_and_its_default() -> None:
    def chosen(**flags) -> object:
        settings = Settings(prompt="p", **flags)
        return settings.decoding(make_method(settings)).get("guard", "nothing")

    chain = "speculative_sampling"
    assert chosen(method=chain) is True, "the program draws the seed itself"
    assert chosen(method=chain, seed=1) == "nothing"
    assert chosen(method=chain, guard=False) is False
    assert chosen(method=chain, seed=1, guard=True) is True
    assert chosen(method=chain, option=["accept_threshold=0.5"]) == "nothing"
    assert (
        chosen(method="mtad")
        == chosen(method="mtjd")
        == chosen(method="autoregressive")
        == "nothing"
    )
    assert chosen(method="mtad", guard=True) is True


def test_the_answers_of_a_file_have_seeds_to_go_on_from(tmp_path) -> None:
    settings = Settings(prompt_file=tmp_path / "p.jsonl", method="speculative_sampling")
    method = make_method(settings)
    assert "guard" not in settings.decoding(method)
    assert replace(settings, guard=True).decoding(method)["guard"] is True

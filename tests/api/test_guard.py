"""The guard: what it makes of pairs by a clock that forwards move; texts and laws stay."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from types import SimpleNamespace

import pytest
import torch
from support import oracles
from support.caches import assert_fresh
from support.guarded import CHAIN, FREE, Meter, Scripted, scripted, watched
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
from support.toy_texts import EMPTY, LENGTH, ONE_EACH, P, few_of, plain_law
from support.toys import MarkovPair, assert_law, make, requests_of

import mtad
from mtad.api.controller import Controller
from mtad.api.costs import Shape, shapes_of
from mtad.api.experience import Experience
from mtad.api.guard import PLAIN, Guards, iterations, wants_guard
from mtad.api.pair import ModelPair
from mtad.cli.options import make_method
from mtad.cli.settings import Settings
from mtad.cli.terminal import summary
from mtad.engine.session import Session
from mtad.engine.stats import Stats, total
from mtad.methods.mtad import MTAD
from mtad.methods.specinfer import SpecInfer
from mtad.methods.speculative_sampling import SpeculativeSampling
from mtad.model.lm import Model
from mtad.speculative.method import Method

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
    if method.drafted_by == "target":
        with pytest.raises(ValueError, match="mtjd searches with the target itself"):
            wants_guard(method, True, has_seed, is_greedy)
    else:
        assert wants_guard(method, True, has_seed, is_greedy) is (method != PLAIN)


# --- sessions whose clock is moved by forwards alone ------------------------------------------


@pytest.fixture(scope="module")
def target() -> Model:
    return tiny_model("llama")


def test_costs_are_known_by_who_drafts_with_these_options(target) -> None:
    guards = ModelPair(target, similar(target)).guards
    costs = guards.costs(make("suffix", fallback="draft"), map(float, count()).__next__)
    assert costs.draft is not None and guards._costs.keys() == {"draft"}


def test_a_useless_draft_is_left_out_and_the_text_stays(target, monkeypatch) -> None:
    """The first text of the pair included."""
    pair = ModelPair(target, opposite(target))
    meter = Meter(monkeypatch, draft=0.1, node=0.02)
    [done] = watched(pair, monkeypatch, meter)
    [plain] = watched(pair, monkeypatch, meter, method=PLAIN)
    assert done.token_ids == plain.token_ids
    stats = done.stats
    assert stats.fallback is not None and stats.fallback.startswith("plain decoding: a draft of ")
    assert stats.num_plain_steps == sum(b.num_drafted == 0 for b in done.blocks)
    assert 40 - 8 < stats.num_plain_steps < 40
    assert plain.stats.fallback is None and plain.stats.num_plain_steps == 0
    assert 40 < stats.decode_s <= 1.03 * plain.stats.decode_s


@pytest.mark.parametrize(
    "method", [CHAIN, SpecInfer(k_config=(1, 1, 1)), make("spectr")], ids=label
)
def test_a_dear_draft_is_never_run(target, monkeypatch, method: Method) -> None:
    """Where no draft could pay, its prompt is not even read."""
    pair, meter = ModelPair(target, similar(target)), Meter(monkeypatch, draft=1.5)
    [done] = watched(pair, monkeypatch, meter, method=method)
    began = meter.now
    [done] = watched(pair, monkeypatch, meter, method=method)
    assert done.stats.num_plain_steps == 40 and done.stats.fallback is not None
    assert done.stats.fallback.startswith(
        "plain decoding: a draft of 1 token would take 2.50 times"
    )
    assert meter.now - began == 40.0


def test_a_rather_dear_draft_that_is_refused_costs_little(target, monkeypatch) -> None:
    pair, meter = ModelPair(target, opposite(target)), Meter(monkeypatch, draft=0.5)
    [done] = watched(pair, monkeypatch, meter, max_new_tokens=60)
    assert done.stats.num_plain_steps > 50 and done.stats.decode_s <= 1.03 * 60


def test_a_lookup_that_finds_nothing_is_left_out(target, monkeypatch) -> None:
    meter = Meter(monkeypatch, draft=0.0, node=0.05)
    method = make("prompt_lookup", max_matching_ngram_size=1)
    settings = {"temperature": 5.0, "seed": 3, "guard": True}
    [done] = watched(ModelPair(target), monkeypatch, meter, method=method, **settings)
    assert done.stats.num_plain_steps > 20 and done.stats.decode_s <= 1.03 * 40


@pytest.mark.slow
def test_a_good_draft_is_used_in_full(target, monkeypatch) -> None:
    pair = ModelPair(target, target)
    [done] = watched(pair, monkeypatch, Meter(monkeypatch, draft=0.1), max_new_tokens=150)
    assert done.stats.fallback is None
    assert done.stats.num_plain_steps <= 2
    assert done.stats.num_spec_steps == pytest.approx(150 / 5, abs=4)


def test_what_is_known_of_a_pair_is_kept_with_it(target, monkeypatch) -> None:
    """Costs are measured once, and a second text begins with the acceptance of the first."""
    pair, meter = ModelPair(target, opposite(target)), Meter(monkeypatch, draft=0.1, node=0.02)
    watched(pair, monkeypatch, meter)
    measured = meter.num_calls
    [again] = watched(pair, monkeypatch, meter)
    assert meter.num_calls - measured < 40 + 10
    assert sum(block.num_drafted > 0 for block in again.blocks) <= 4


def test_batches_draft_less_the_more_rows_they_have(target, monkeypatch) -> None:
    """A further token costs a tenth of a plain step, so that sixteen rows cost ten of them."""
    meter = Meter(monkeypatch, draft=0.05, node=0.1, row=0.1)
    monkeypatch.setattr("mtad.api.pair.time", SimpleNamespace(perf_counter=meter))
    lengths = {}
    for num_rows in (1, 16):
        pair = ModelPair(target, similar(target))
        pair.graphs = None
        params = {"temperature": 0.0, "max_new_tokens": 30, "ignore_eos": True}
        done = pair.generate(PROMPTS[:1] * num_rows, CHAIN, max_batch_size=16, **params)
        lengths[num_rows] = sum(b.num_drafted for b in done[0].blocks) / len(done[0].blocks)
    assert lengths[16] < 0.7 * lengths[1]


@pytest.mark.slow
def test_a_seed_gives_its_text_whatever_the_clock_says(target, monkeypatch) -> None:
    pair = ModelPair(target, similar(target))
    drawn = {"temperature": 1.0, "max_new_tokens": 60}
    cheap, dear = Meter(monkeypatch, draft=0.0), Meter(monkeypatch, draft=5.0)
    [one] = watched(pair, monkeypatch, cheap, seed=7, **drawn)
    [other] = watched(pair, monkeypatch, dear, seed=7, **drawn)
    assert one.token_ids == other.token_ids
    assert other.stats.fallback is None and other.stats.num_plain_steps == 0
    assert not pair.guards._costs, "and nothing is measured"
    [forced] = watched(pair, monkeypatch, dear, seed=7, guard=True, **drawn)
    assert forced.stats.fallback is not None
    [free] = watched(pair, monkeypatch, dear, **drawn)
    assert free.stats.fallback is not None
    [unwatched] = watched(pair, monkeypatch, dear, guard=False, **drawn)
    assert unwatched.stats.fallback is None and unwatched.stats.num_plain_steps == 0


@pytest.mark.slow
def test_a_lossy_method_is_watched_only_if_asked(target, monkeypatch) -> None:
    pair = ModelPair(target, opposite(target))
    meter = Meter(monkeypatch, draft=1.5)
    [left] = watched(pair, monkeypatch, meter, method=MTAD(accept_threshold=0.9))
    assert left.stats.fallback is None
    [asked] = watched(pair, monkeypatch, meter, method=MTAD(accept_threshold=0.9), guard=True)
    assert asked.stats.fallback is not None
    assert asked.stats.fallback.endswith("the target's distribution, not that of mtad")


# --- whatever the guard chooses, caches and laws stay right -----------------------------------


def drafts(method: Method) -> bool:
    return method != PLAIN and method.drafted_by != "target" and method.kept == method.entries


@pytest.mark.parametrize("script", ["dppppdppppps"])
@pytest.mark.parametrize("method", methods_that(drafts), ids=label)
def test_caches_are_fresh_where_drafts_come_back(target, method: Method, script: str) -> None:
    """A draft equal to the target accepts whole blocks, and its cache lags behind the most.

    Looked at only where drafts have come back: the look itself feeds the last two tokens.
    """
    requests = requests_of(PROMPTS, max_new_tokens=3 * (block_length(method) + 6))
    texts, came_back = [list(request.prompt_ids) for request in requests], 0
    was_plain = False
    for session, _, iteration in scripted(target, target, method, requests, VOCAB, script):
        for block in iteration.step.blocks:
            texts[block.request] += block.token_ids
        running = [texts[request] for request in session.rows]
        comes_back, was_plain = was_plain and not iteration.is_plain, iteration.is_plain
        came_back += comes_back and bool(running)
        if running and comes_back:
            for lm in session.lms:
                with torch.inference_mode():
                    assert_fresh(lm, running, last_slot_may_lag=lm is session.drafter)
    assert came_back


class Listening(Controller):
    """Remembers the tokens of each iteration."""

    def __init__(self, method: Method) -> None:
        super().__init__(shapes_of(method, VOCAB)[-1:] * 2, Experience(FREE))
        self.tokens: list[list[int]] = []

    def choose(self, num_rows: int, num_missed: int = 0, may_record: bool = True) -> Shape:
        return self.shapes[-1]

    def add(self, tokens: Sequence[int], *rest: object, **more: object) -> None:
        self.tokens.append(list(tokens))


def test_blocks_that_the_end_of_the_text_cut_off_are_not_counted(target) -> None:
    budgets = [3, 12]
    requests = [requests_of([PROMPTS[1]], max_new_tokens=n)[0] for n in budgets]
    with torch.inference_mode():
        session = Session(target, target, CHAIN, requests, VOCAB)
    control = Listening(CHAIN)
    assert (
        sum(
            len(b.token_ids)
            for iteration in iterations(session, control, lambda: 0.0)
            for b in iteration.step.blocks
        )
        == 15
    )
    assert control.tokens == [[5], [5], []]


SLOW_SCRIPTS = [pytest.param(s, marks=pytest.mark.slow) for s in ("dsp", "d.")]


@pytest.mark.parametrize("script", ["snpd.", *SLOW_SCRIPTS])
@pytest.mark.parametrize(("name", "options"), few_of(ONE_EACH[1:]))
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


class Spiteful(Controller):
    """Drafts or not by what was accepted last: one row, so that the choice follows the text."""

    last_tokens = 1

    def choose(self, num_rows: int, num_missed: int = 0, may_record: bool = True) -> Shape:
        return self.shapes[0 if self.last_tokens == 1 else -1]

    def add(self, tokens: Sequence[int], *rest: object, **more: object) -> None:
        self.last_tokens = 2 if self.last_tokens == 1 else sum(tokens)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Spiteful, Controller])
@pytest.mark.parametrize("name", ["speculative_sampling", "block_verification", "mcss"])
def test_choices_that_follow_what_was_accepted_keep_the_law(
    toy: MarkovPair, kind: type[Controller], name: str
) -> None:
    """Of this text, and of those before it, whose acceptance a controller remembers."""
    texts, known = [], Experience(FREE)
    method = make(name, **dict(ONE_EACH)[name])
    for request in requests_of([EMPTY] * 200, max_new_tokens=4):
        with torch.inference_mode():
            session = Session(toy.target, toy.draft, method, [request], toy.vocab)
        control = kind(shapes_of(method, toy.vocab, has_narrower=True), known)
        tokens: list[int] = []
        for iteration in iterations(session, control, clock=lambda: 0.0):
            tokens += [t for block in iteration.step.blocks for t in block.token_ids]
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


@pytest.mark.slow
def test_a_length_that_is_only_tried_is_not_recorded(monkeypatch) -> None:
    """And one that is there is played all the same."""
    pair = mtad.load_pair("demo")
    pair.graphs.patience = 2
    options = {"temperature": 0.0, "max_new_tokens": 40, "ignore_eos": True}

    def trying(self: Guards, method: Method, *_: object) -> Scripted:
        control = Scripted(method, "d", self._models.vocab)
        control.is_trial = True
        return control

    with monkeypatch.context() as patched:
        patched.setattr(Guards, "controller", trying)
        pair.generate("def area(r):", CHAIN, **options)
        assert pair.graphs.num_captured == 0
        pair.generate("def area(r):", CHAIN, guard=False, **options)
        assert pair.graphs.num_captured == 1
        before = pair.graphs.eager_iterations.copy()
        pair.generate("def area(r):", CHAIN, **options)
        assert pair.graphs.eager_iterations == before

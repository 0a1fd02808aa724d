"""Grammars in the loop: captured, joined, left, resumed, and beside what else ends a text."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

import mtad
from mtad.engine.session import Request, Session
from mtad.errors import OptionError
from mtad.grammar.grammar import Grammar
from mtad.grammar.matcher import TokenGrammars
from mtad.sampling.params import SamplingParams

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"enum": [1, 20, 300]}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
PROMPT = "def who(): "


@pytest.fixture(scope="module")
def pair() -> mtad.ModelPair:
    return mtad.load_pair("demo")


def parses(text: str) -> bool:
    value = json.loads(text)
    return {*value} == {"name", "age"} and len(value["name"]) <= 8 and value["age"] in (1, 20, 300)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["speculative_sampling", "mtad", "specinfer", "beam_search"])
def test_text_is_json_of_the_schema(pair, method):
    greedy = {"temperature": 0.0} if method == "beam_search" else {}
    texts = pair.generate(
        [PROMPT] * 3, method, grammar=SCHEMA, seed=[1, 2, 3], max_new_tokens=200, **greedy
    )
    assert [one.finish_reason for one in texts] == ["stop"] * 3
    assert all(parses(one.text) for one in texts)


@pytest.mark.slow
def test_captured_iterations_give_the_same_text(pair):
    """Two texts: a program is used for the second one, and asks the grammar anew."""
    settings = {"grammar": SCHEMA, "max_new_tokens": 60, "guard": False}
    quick, eager = mtad.load_pair("demo"), mtad.load_pair("demo")
    eager.graphs = None
    for seed in range(4):
        fast = quick.generate(PROMPT, "speculative_sampling", seed=seed, **settings)[0]
        slow = eager.generate(PROMPT, "speculative_sampling", seed=seed, **settings)[0]
        assert fast.token_ids == slow.token_ids
    assert quick.graphs.num_captured > 0 and eager.graphs.num_captured == 0
    assert "unsupported" not in quick.graphs.eager_iterations


@pytest.mark.slow
def test_a_text_without_a_grammar_is_what_it_is_alone(pair):
    sampling = SamplingParams(seed=5, max_new_tokens=12, eos_token_ids=pair.models.eos_token_ids)
    ids = pair.tokenizer(PROMPT).input_ids
    plain = Request(ids, sampling)
    state = pair.models.grammars.begin(Grammar.choice(["yes", "no"]), sampling.eos_token_ids)
    guided = Request(ids, sampling, stop=state.push, grammar=state)
    alone, both = texts_of(pair, [plain]), texts_of(pair, [plain, guided])
    assert both[0] == alone[0]
    assert pair.tokenizer.decode(both[1]) in ("yes", "no")


@pytest.mark.slow
def test_a_batch_whose_grammars_have_left_asks_none(pair):
    sampling = SamplingParams(seed=5, max_new_tokens=20)
    ids = pair.tokenizer(PROMPT).input_ids
    state = pair.models.grammars.begin(Grammar.choice(["yes", "no"]), ())
    requests = [Request(ids, sampling, stop=state.push, grammar=state), Request(ids, sampling)]
    m, method = pair.models, mtad.SpeculativeSampling()
    session = Session(m.target, m.draft, method, requests, m.vocab)
    assert session.prefix.grammars is not None
    steps = session.run()
    while len(session.rows) == 2:
        next(steps)
    assert session.prefix.grammars is None
    state = pair.models.grammars.begin(Grammar.choice(["yes", "no"]), ())
    session.join([Request(ids, sampling, stop=state.push, grammar=state)])
    while session.prefill_chunk():
        pass
    assert session.prefix.grammars.tolist() == [0, state.number]
    blocks = [block for step in steps for block in step.blocks if block.request == 2]
    assert pair.tokenizer.decode([t for b in blocks for t in b.token_ids]) in ("yes", "no")


def texts_of(pair: mtad.ModelPair, requests: list[Request]) -> list[list[int]]:
    texts: list[list[int]] = [[] for _ in requests]
    m, method = pair.models, mtad.SpeculativeSampling()
    for step in Session(m.target, m.draft, method, requests, m.vocab).run():
        for block in step.blocks:
            texts[block.request] += block.token_ids
    return texts


@pytest.mark.slow
def test_a_resumed_text_goes_on_as_if_nothing_had_happened(pair):
    sampling = SamplingParams(seed=7, max_new_tokens=60, eos_token_ids=pair.models.eos_token_ids)
    ids = pair.tokenizer(PROMPT).input_ids
    begin = pair.models.grammars.begin
    state = begin(Grammar.json(SCHEMA), sampling.eos_token_ids)
    request = Request(ids, sampling, stop=state.push, grammar=state)
    whole = texts_of(pair, [request])[0]
    for cut in (1, len(whole) // 2, len(whole) - 1):
        again = state.restarted()
        for token in whole[:cut]:
            again.push(token)
        resumed = replace(request, output_ids=whole[:cut], stop=again.push, grammar=again)
        assert whole[:cut] + texts_of(pair, [resumed])[0] == whole


@pytest.mark.slow
def test_a_stop_string_ends_the_text_within_its_grammar(pair):
    text = pair.generate(PROMPT, grammar=SCHEMA, seed=1, stop='"age"', max_new_tokens=200)[0]
    assert text.finish_reason == "stop"
    assert text.text.lstrip().startswith("{") and '"age"' not in text.text


@pytest.mark.slow
def test_a_text_that_its_budget_ends_says_so(pair):
    text = pair.generate(PROMPT, grammar=SCHEMA, seed=1, max_new_tokens=4)[0]
    assert text.finish_reason == "length" and len(text.token_ids) == 4


@pytest.mark.parametrize(
    "ban",
    [{"min_new_tokens": 2}, {"suppress_tokens": [5]}, {"logit_bias": {5: float("-inf")}}],
)
def test_bans_beside_a_grammar_are_refused(pair, ban):
    with pytest.raises(OptionError, match="bans tokens and the text has a grammar") as error:
        pair.generate(PROMPT, grammar=SCHEMA, **ban)
    assert error.value.name == next(iter(ban))


LONG = {
    "type": "object",
    "properties": {"identification_number": {"enum": [1, 2]}, "registration_year": {"enum": [3]}},
    "required": ["identification_number", "registration_year"],
    "additionalProperties": False,
}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["speculative_sampling", "specinfer", "prompt_lookup"])
def test_forced_tokens_cost_no_draft_and_change_no_text(pair, method):
    settings = {"grammar": LONG, "temperature": 0.0, "max_new_tokens": 120}
    guarded = pair.generate([PROMPT, "x = "], method, guard=True, **settings)
    plain = pair.generate([PROMPT, "x = "], method, guard=False, **settings)
    assert [one.text for one in guarded] == [one.text for one in plain]
    assert all(json.loads(one.text)["registration_year"] == 3 for one in guarded)
    assert sum(one.stats.num_forced_tokens for one in guarded) > 4  # the guard's drafts have some
    assert not any(one.stats.num_forced_tokens for one in plain)
    for stats in (one.stats for one in guarded):
        assert stats.num_forced_tokens <= stats.num_accepted_draft_tokens
        steps, accepted = stats.num_spec_steps, stats.num_accepted_draft_tokens
        assert steps + accepted >= stats.num_output_tokens


@pytest.mark.slow
def test_one_text_without_a_grammar_is_forced_to_nothing(pair):
    guarded = pair.generate(PROMPT, "speculative_sampling", guard=True, temperature=0.0)[0]
    assert guarded.stats.num_forced_tokens == 0


def test_grammars_are_those_of_a_tokenizer_a_vocabulary_and_its_ends(pair):
    models = pair.models
    ends, vocab = models.eos_token_ids, models.vocab
    own = TokenGrammars.of(models.tokenizer, vocab, ends)
    assert own is models.grammars
    assert TokenGrammars.of(models.tokenizer, vocab, (*ends, 0)) is not own
    wide = TokenGrammars.of(models.tokenizer, vocab + 64, ends)
    assert wide.begin(Grammar.choice(["yes"]), ends).excluded(()).shape == (vocab + 64,)

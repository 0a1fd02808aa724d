"""What every method of the registry promises: budgets, endings, seeds, rows, accounts, options."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from itertools import product
from typing import Any

import pytest
import torch
from scipy.stats import chisquare
from support.tiny import (
    Text,
    block_length,
    complete,
    counting_model,
    honours,
    is_greedy,
    label,
    methods_that,
    similar,
    suited,
    token_ids,
)

from mtad import methods
from mtad.methods.autoregressive import Autoregressive
from mtad.methods.beam_search import BeamSearch
from mtad.methods.joint_greedy import JointGreedy
from mtad.methods.mcss import MCSS
from mtad.methods.mmtad import MMTAD
from mtad.methods.mtad import MTAD
from mtad.methods.mtjd import MTJD, USED
from mtad.methods.specinfer import SpecInfer
from mtad.methods.spectr import SpecTr
from mtad.methods.speculative_sampling import SpeculativeSampling
from mtad.sampling.params import SamplingParams
from mtad.speculative.method import Method
from mtad.testing import markov_model, random_llama

VOCAB = 13
SEARCHES = {"beam_search", "speculative_beam"}
"""Methods whose text is the most likely that they find, at any temperature."""
PROMPTS = [[3, 5, 7, 3, 5, 9, 11], [8], [1, 2, 3, 4, 5, 6, 1, 2]]
EVERY_METHOD = pytest.mark.parametrize("method", methods_that())


def is_drafting(method: Method) -> bool:
    """Whether a draft model proposes."""
    return method.drafted_by == "draft"


@pytest.fixture(scope="module")
def pair():
    target = random_llama(vocab=VOCAB)
    return target, similar(target)


# ---------------------------------------------------------------- budgets


@EVERY_METHOD
def test_the_budget_is_met_exactly(pair, method):
    gamma = block_length(method)
    budgets = [1, 2, gamma, gamma + 1, gamma + 2, 3 * gamma + 1]
    params = [SamplingParams(max_new_tokens=n, seed=n) for n in budgets]
    texts = complete(*pair, method, [PROMPTS[0]] * len(budgets), params, VOCAB)
    assert [len(text.token_ids) for text in texts] == budgets
    assert {text.finish_reason for text in texts} == {"length"}


@EVERY_METHOD
def test_nothing_is_drafted_that_the_budget_cannot_take(pair, method):
    budget = 2 * block_length(method) + 2
    for text in complete(*pair, method, PROMPTS, SamplingParams(max_new_tokens=budget), VOCAB):
        left = budget
        for block in text.blocks:
            endpoint = method.drafted_by != "target"
            assert block.depth + endpoint <= left
            left -= len(block.token_ids)


@EVERY_METHOD
def test_a_budget_of_nothing_gives_nothing(pair, method):
    params = [SamplingParams(max_new_tokens=n) for n in (0, 3, 0)]
    texts = complete(*pair, method, PROMPTS, params, VOCAB)
    assert [len(text.token_ids) for text in texts] == [0, 3, 0]
    assert complete(*pair, method, PROMPTS, params[0], VOCAB) == [Text(())] * 3


# ---------------------------------------------------------------- endings

CYCLE = 16
"""The forced texts count 1, 2, 3 … after the prompt's last token, 0."""
COUNTING_PROMPTS = [[0], [*range(CYCLE), 0]]

Skips = Callable[[int], bool]


def counting_cycles(*skips: Skips):
    """A model that counts within cycles of `CYCLE` tokens, and skips a number after some.

    Tokens i · CYCLE to (i + 1) · CYCLE - 1 are a cycle of their own, with the i-th of `skips`.
    """
    vocab = CYCLE * len(skips)
    table = [[0.0] * vocab for _ in range(vocab)]
    for cycle, skip in enumerate(skips):
        for i in range(CYCLE):
            table[cycle * CYCLE + i][cycle * CYCLE + (i + 1 + skip(i)) % CYCLE] = 1.0
    return markov_model(table)


def never(token: int) -> bool:
    return False


def always(token: int) -> bool:
    return True


def every_third(token: int) -> bool:
    return token % 3 == 2


AGREEING = counting_model(CYCLE), counting_cycles(never)
MIXED = counting_model(CYCLE), counting_cycles(every_third)
CYCLES = counting_cycles(never, never, never), counting_cycles(never, always, every_third)
"""A target whose text is forced, and a draft that knows it always, never or often, by cycle."""
STARTS = [0, CYCLE, 2 * CYCLE]


def certain(method: Method, **settings: Any) -> SamplingParams:
    """Settings under which the forced text is certain.

    The models' impossible tokens have a log-probability of -10,000, which a rule that compares a
    candidate with its own kind takes for a possible one; at temperature 0 they are gone.
    """
    temperature = 0.0 if getattr(method, "rule", "star") == "own" else 1.0
    return SamplingParams(temperature=temperature, **settings)


@EVERY_METHOD
def test_the_text_ends_at_eos_wherever_it_falls_in_a_block(method):
    places = range(1, 2 * block_length(method) + 4)
    cases = list(product(STARTS, COUNTING_PROMPTS, places))
    prompts = [[start + token for token in prompt] for start, prompt, _ in cases]
    params = [
        certain(method, eos_token_ids=[start + end], max_new_tokens=40) for start, _, end in cases
    ]
    texts = complete(*CYCLES, method, prompts, params, 3 * CYCLE)
    expected = [list(range(start + 1, start + end + 1)) for start, _, end in cases]
    assert [text.token_ids for text in texts] == expected
    assert {text.finish_reason for text in texts} == {"stop"}
    for text in texts:
        assert_adds_up(text, method)


def drafts_the_sure_text(method: Method) -> bool:
    """Whether no place of a draft is left for tokens that the draft finds impossible."""
    without = method.name in ("joint_greedy", "speculative_beam")
    without |= getattr(method, "replacement", "") == "without"
    return is_drafting(method) and not without


@pytest.mark.parametrize("method", methods_that(drafts_the_sure_text))
def test_nothing_is_drafted_after_eos(method):
    """A draft that is sure of the text proposes no token beyond its end."""
    params = [
        SamplingParams(temperature=0.0, eos_token_ids=[end], max_new_tokens=40)
        for end in range(1, 2 * block_length(method) + 4)
    ]
    for text in complete(*AGREEING, method, [[0]] * len(params), params, CYCLE):
        assert text.blocks[-1].depth <= len(text.blocks[-1].token_ids)


@EVERY_METHOD
def test_eos_at_the_end_of_the_prompt_does_not_end_the_text(method):
    params = certain(method, eos_token_ids=[0, 6], max_new_tokens=40)
    texts = token_ids(*MIXED, method, COUNTING_PROMPTS, params, CYCLE)
    assert texts == [[1, 2, 3, 4, 5, 6]] * 2


@EVERY_METHOD
def test_the_first_of_several_eos_ids_ends_the_text(method):
    eos = [[9, 5], [2], [12, 11, 10], []]
    params = [certain(method, eos_token_ids=e, max_new_tokens=14) for e in eos]
    texts = complete(*MIXED, method, [[0]] * len(eos), params, CYCLE)
    expected = [list(range(1, last + 1)) for last in (5, 2, 10, 14)]
    assert [text.token_ids for text in texts] == expected
    assert [text.finish_reason for text in texts] == ["stop", "stop", "stop", "length"]


class EndsWith:
    """A stop condition over the last tokens, which may come from different blocks."""

    def __init__(self, *ending: int) -> None:
        self.ending, self.seen = list(ending), list[int]()

    def __call__(self, token: int) -> bool:
        self.seen.append(token)
        return self.seen[-len(self.ending) :] == self.ending


@pytest.mark.parametrize("method", methods_that(lambda method: method.name != "beam_search"))
def test_stop_conditions_see_every_token_once_and_end_the_text(method):
    cases = list(product(STARTS, range(2, 2 * block_length(method) + 4)))
    prompts = [[start] for start, _ in cases]
    stops = [EndsWith(start + end - 1, start + end) for start, end in cases]
    params = certain(method, max_new_tokens=40)
    texts = complete(*CYCLES, method, prompts, params, 3 * CYCLE, stops)
    for text, stop, (start, end) in zip(texts, stops, cases, strict=True):
        assert text.token_ids == stop.seen == list(range(start + 1, start + end + 1))
        assert text.finish_reason == "stop"
        assert_adds_up(text, method)


# ---------------------------------------------------------------- accounting


def assert_adds_up(text: Text, method: Method) -> None:
    """Accepted tokens and endpoints make the text; nothing clipped counts as accepted."""
    if method.drafted_by == "target":
        assert all(b.num_accepted == b.num_drafted == b.depth == 0 for b in text.blocks)
        return
    for block in text.blocks:
        assert block.num_accepted <= block.depth <= block.num_drafted
        assert len(block.token_ids) - block.num_accepted in (0, 1)
    may_wait = method.name == "speculative_beam"  # until its hypotheses agree
    for block in text.blocks[:-1]:
        is_empty = may_wait and block.token_ids == ()
        assert len(block.token_ids) == block.num_accepted + (not is_empty)
        assert block.finish_reason is None


@EVERY_METHOD
@pytest.mark.parametrize("eos", [[], [4, 9]])
def test_accepted_tokens_and_endpoints_make_the_text(pair, method, eos):
    params = [SamplingParams(max_new_tokens=n, eos_token_ids=eos) for n in (5, 12, 17)]
    texts = complete(*pair, method, PROMPTS, params, VOCAB)
    for text, p in zip(texts, params, strict=True):
        assert_adds_up(text, method)
        assert len(text.token_ids) == p.max_new_tokens or text.token_ids[-1] in eos
        assert not set(text.token_ids[:-1]) & set(eos)


@EVERY_METHOD
def test_tokens_cut_off_by_a_stop_are_not_accepted(method):
    target = counting_model(CYCLE)
    params = SamplingParams(max_new_tokens=9)
    texts = complete(target, target, method, [[0]], params, CYCLE, [lambda token: token == 1])
    assert texts[0].token_ids == [1]
    searches = getattr(method, "num_beams", 1) > 1  # and hypotheses may part after one token
    drafts_at_once = is_drafting(method) and method.name != "bild" and not searches
    assert texts[0].blocks[0].num_accepted == drafts_at_once


# ---------------------------------------------------------------- seeds and rows

SETTINGS = [
    SamplingParams(temperature=0.0, max_new_tokens=11),
    SamplingParams(max_new_tokens=9),
    SamplingParams(temperature=1.5, max_new_tokens=3),
    SamplingParams(temperature=0.7, top_k=5, max_new_tokens=10),
    SamplingParams(top_p=0.8, max_new_tokens=12, eos_token_ids=[2, 4, 6]),
    SamplingParams(min_p=0.1, top_k=100, max_new_tokens=8),
    SamplingParams(repetition_penalty=1.3, presence_penalty=0.4, max_new_tokens=10),
    SamplingParams(frequency_penalty=0.3, logit_bias={3: 2.0}, max_new_tokens=6),
    SamplingParams(suppress_tokens=[1, 2], min_new_tokens=5, eos_token_ids=[5], max_new_tokens=9),
]


@EVERY_METHOD
def test_a_row_does_not_depend_on_its_neighbours(pair, method):
    """Greedy and sampled rows, rows that leave early and rows with penalties, in one batch.

    Each has another place in reverse, and every second one other neighbours.
    """
    settings = [replace(suited(method, p), seed=i) for i, p in enumerate(SETTINGS)]
    params = [p for p in settings if honours(method, **vars(p))]
    prompts = [PROMPTS[i % 3] for i in range(len(params))]
    together = token_ids(*pair, method, prompts, params, VOCAB)
    rows = range(len(params))
    for some in (rows[::-1], rows[1::2]):
        chosen = [prompts[i] for i in some], [params[i] for i in some]
        assert token_ids(*pair, method, *chosen, VOCAB) == [together[i] for i in some]


@EVERY_METHOD
def test_the_text_depends_on_the_seed_alone(pair, method):
    params = [SamplingParams(max_new_tokens=12, seed=seed) for seed in (7, 8, -1, 2**64 - 5, 7)]
    texts = token_ids(*pair, method, [PROMPTS[0]] * len(params), params, VOCAB)
    assert texts == token_ids(*pair, method, [PROMPTS[0]] * len(params), params, VOCAB)
    assert texts[0] == texts[-1]
    deterministic = method.name in SEARCHES or getattr(method, "joint", None) == "argmax"
    deterministic |= not honours(method, temperature=1.0)
    assert len(set(map(tuple, texts))) == (1 if deterministic else len(texts) - 1)


@pytest.mark.parametrize(
    "method", [Autoregressive(), SpeculativeSampling(3), MTAD(3, 2)], ids=label
)
def test_iterations_do_not_share_their_noise(method):
    """On a target that forgets everything repeated draws would repeat the blocks."""
    flat = markov_model([[1 / VOCAB] * VOCAB] * VOCAB)
    params = [SamplingParams(max_new_tokens=36, seed=seed) for seed in range(3)]
    for text in complete(flat, flat, method, [[0]] * 3, params, VOCAB):
        blocks = {block.token_ids for block in text.blocks}
        assert len(blocks) == (9 if block_length(method) == 3 else len(set(text.token_ids)))
        assert len(set(text.token_ids)) > 5


# ---------------------------------------------------------------- laws with few tokens

SMALL = [[0.5, 0.3, 0.2], [0.2, 0.5, 0.3], [0.1, 0.1, 0.8]]
WIDE = [
    BeamSearch(num_beams=50),
    JointGreedy(num_draft_tokens=3, beam_width=50),
    MCSS(k_config=(5, 4)),
    MCSS(k_config=(5, 4), replacement="naive"),
    MMTAD(num_draft_tokens=3, beam_width=50),
    MTAD(num_draft_tokens=3, beam_width=50),
    MTAD(num_draft_tokens=3, beam_width=50, beam="sample_with_replacement"),
    MTAD(num_draft_tokens=3, beam_width=50, beam="search"),
    MTJD(num_block_tokens=3, beam_width=50),
    SpecInfer(k_config=(5, 4)),
    SpecTr(num_drafts=9, num_draft_tokens=2),
]


@pytest.mark.parametrize("method", WIDE, ids=label)
def test_more_candidates_than_tokens(method):
    target, draft = markov_model(SMALL), markov_model(SMALL[::-1])
    settings = [SamplingParams(max_new_tokens=9), SamplingParams(max_new_tokens=9, top_k=2)]
    settings += [SamplingParams(max_new_tokens=9, temperature=0.0)]
    params = [p for p in settings if honours(method, **vars(p))]
    texts = complete(target, draft, method, [[0]] * len(params), params, 3)
    assert all(len(text.token_ids) == 9 for text in texts)
    for text in texts:
        assert_adds_up(text, method)


def is_judged_by_what_is_left(method: Method) -> bool:
    """Whether it neither searches nor judges by probabilities before truncation."""
    if method.name == "typical_acceptance" or not (is_greedy(method) or method.name == "bild"):
        return False
    return getattr(method, "ratio_on", "warped") == "warped"


@pytest.mark.parametrize("method", methods_that(is_judged_by_what_is_left))
def test_laws_of_a_single_token_are_greedy(pair, method):
    single = [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}, {"temperature": 1e-5}]
    params = [SamplingParams(max_new_tokens=10, seed=3, **one) for one in single]
    greedy = SamplingParams(temperature=0.0, max_new_tokens=10)
    texts = token_ids(*pair, method, [PROMPTS[0]] * len(params), params, VOCAB)
    assert texts == token_ids(*pair, method, [PROMPTS[0]], greedy, VOCAB) * len(params)


@pytest.mark.parametrize("method", methods_that(lambda method: honours(method, top_k=2)))
def test_a_top_k_beyond_the_vocabulary_is_off(pair, method):
    params = [SamplingParams(max_new_tokens=8, top_k=k) for k in (0, VOCAB, 1_000)]
    texts = token_ids(*pair, method, [PROMPTS[0]] * 3, params, VOCAB)
    assert texts[0] == texts[1] == texts[2]


# ---------------------------------------------------------------- equal and disjoint laws


def accepts_its_equal(method: Method) -> bool:
    """Whether a draft equal to the target is always accepted."""
    always = {"speculative_sampling", "block_verification", "spectr", "specinfer", "mtad", "margin"}
    always |= {"cactus", "fly"}
    with_residual = method.name == "mcss" and getattr(method, "replacement", "") != "naive"
    is_between = method.name == "cascade" and getattr(method, "rule", "") != "token"
    adapts = getattr(method, "adaptive_paths", False)
    return method.name in always or with_residual or is_between or adapts


SAMPLING: list[dict[str, Any]] = [
    {},
    {"top_k": 4, "temperature": 0.8},
    {"temperature": 0.0},
    {"logit_bias": {3: 4.0, 5: -2.0, 7: 4.0}},
]


@pytest.mark.parametrize("method", methods_that(accepts_its_equal))
def test_a_draft_equal_to_the_target_is_always_accepted(pair, method):
    """A ratio of raw probabilities compares what was not drawn from, unless they are the same."""
    target, _ = pair
    settings = SAMPLING if getattr(method, "ratio_on", "warped") == "warped" else SAMPLING[:1]
    params = [SamplingParams(max_new_tokens=14, **s) for s in settings for _ in PROMPTS]
    prompts = PROMPTS * len(settings)
    for text in complete(target, target, method, prompts, params, VOCAB):
        left = 14
        for block in text.blocks:
            assert block.num_accepted == block.depth == min(block_length(method), left - 1)
            left -= len(block.token_ids)


def samples_after_drafts(method: Method) -> bool:
    """Whether the draft model says every draft token, and the text is drawn."""
    return method.drafter == "draft" and honours(method) and method.name not in SEARCHES


@pytest.mark.parametrize("method", methods_that(samples_after_drafts))
def test_disjoint_laws_accept_nothing_and_follow_the_target(method):
    p = [[0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]] * 4
    q = [[0.0] * 4 + [0.1, 0.2, 0.3, 0.4]] * 8
    num = 300
    params = [SamplingParams(max_new_tokens=3, seed=i) for i in range(num)]
    texts = complete(markov_model(p), markov_model(q), method, [[0]] * num, params, 8)
    blocks = [block for text in texts for block in text.blocks]
    assert sum(block.num_drafted for block in blocks) > 0
    assert all(block.num_accepted == 0 for block in blocks)
    counts = torch.zeros(4, 4)
    for text in texts:
        counts[text.token_ids[0], text.token_ids[1]] += 1
    law = torch.tensor([[p[0][a] * p[a][b] for b in range(4)] for a in range(4)])
    assert chisquare(counts.flatten(), law.flatten() / law.sum() * num).pvalue > 1e-4


def test_the_star_rule_follows_the_best_beam_up_to_the_root():
    """The best beam (1, 2) begins with the second likeliest token: 0 is judged by q(1) = 0.4.

    At threshold 1 token 0 passes there, with p(0) = 0.5, but not against the first node of its
    level, with q(0) = 0.6; at depth 2 nothing passes.
    """
    anything = [0.4, 0.3, 0.3, 0.0]
    draft = [[0.35, 0.35, 0.3, 0.0], [0.05, 0.05, 0.9, 0.0], anything, [0.6, 0.4, 0.0, 0.0]]
    target = [[0.34, 0.33, 0.33, 0.0], [0.9, 0.05, 0.05, 0.0], anything, [0.5, 0.3, 0.2, 0.0]]
    method = MMTAD(num_draft_tokens=2, beam_width=3, accept_threshold=1.0, beam="search")
    params = SamplingParams(max_new_tokens=3)
    (text,) = complete(markov_model(target), markov_model(draft), method, [[3]], params, 4)
    assert text.token_ids[0] == 0
    assert text.blocks[0].num_accepted == 1


# ---------------------------------------------------------------- options

ANY_NUMBER = {"length_penalty", "joint_margin"}


def impossible(default: Any) -> list[Any]:
    """Values that mean nothing for an option with this default."""
    if isinstance(default, int):
        return [0, -3, 2.5]
    if isinstance(default, float) or default is None:
        return [-0.5, float("nan")]
    if isinstance(default, tuple):
        return [(), (2, 0), (2, -1), (1.5,)]
    return ["nonsense", ""]


@pytest.mark.usefixtures("unchecked_types")
def test_every_method_refuses_impossible_options(method_class):
    """The message has the option, the value given and what is allowed."""
    for option in fields(method_class):
        if option.name in ANY_NUMBER:
            continue
        for value in impossible(getattr(method_class(), option.name)):
            with pytest.raises(ValueError) as caught:
                method_class(**{option.name: value})
            message = str(caught.value)
            assert message.startswith(f"{method_class.name}: {option.name} is {value!r}")
            assert "it must be" in message


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize(
    ("name", "options", "allowed"),
    [
        ("mtad", {"accept_threshold": -1.0}, "a number >= 0"),
        ("mtad", {"beam": "widest"}, "sample_with_replacement"),
        ("mmtad", {"rule": "best"}, "star, own or max"),
        ("mcss", {"replacement": "maybe"}, "without, with or naive"),
        ("mcss", {"k_config": ()}, "such as 4,2,2"),
        ("mtjd", {"joint": "top"}, "top_k, top_p"),
        ("bild", {"rollback_threshold": 0.0}, "> 0"),
        ("cactus", {"delta": float("inf")}, "a finite number >= 0"),
        ("cascade", {"rule": "best"}, "chow, diff, opt, js"),
        ("typical_acceptance", {"posterior_alpha": 1.5}, "from 0 to 1"),
    ],
)
def test_refusals_say_what_is_allowed(name, options, allowed):
    with pytest.raises(ValueError, match=next(iter(options))) as caught:
        methods.find(name)(**options)
    assert allowed in str(caught.value)
    assert repr(next(iter(options.values()))) in str(caught.value)


def test_every_method_names_itself_and_its_source(method_class):
    assert methods.find(method_class.name) is method_class
    if method_class.name in methods.own_names():
        assert method_class.__module__ == f"mtad.methods.{method_class.name}"
    assert method_class.citation
    assert method_class() == method_class()
    assert isinstance(method_class().is_lossless, bool)


SHAPING = {"temperature": 0.7, "top_k": 5, "top_p": 0.9, "min_p": 0.1}


@pytest.mark.parametrize("setting", SHAPING)
@pytest.mark.parametrize("method", [BeamSearch(), *(MTJD(2, joint) for joint in USED)], ids=label)
def test_joint_methods_refuse_by_name_what_they_cannot_honour(pair, method, setting):
    params = SamplingParams(max_new_tokens=2, **{setting: SHAPING[setting]})
    if isinstance(method, MTJD) and setting in USED[method.joint]:
        assert len(token_ids(*pair, method, [[1]], params, VOCAB)[0]) == 2
        return
    with pytest.raises(ValueError) as caught:
        complete(*pair, method, [[1], [2]], [SamplingParams(max_new_tokens=2), params], VOCAB)
    assert f"{method.name} does not honour {setting}={SHAPING[setting]!r}" in str(caught.value)


def test_joint_enumeration_refuses_what_is_too_much():
    target = random_llama()
    with pytest.raises(ValueError, match=r"61\^4 blocks.*use joint='beam'"):
        complete(target, None, MTJD(4, "none"), [[1]], SamplingParams(), 61)

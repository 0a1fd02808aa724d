"""The golden numbers of every method: the oracles give them, and the methods agree with both.

Numbers come from exact enumeration on the toy pair (empty prefix unless said otherwise) and on the
single-position pairs A to D.
"""

from __future__ import annotations

import math
from collections import Counter
from itertools import product
from typing import Any

import pytest
import torch
from support import oracles
from support.oracles import Blocks, Law, Text
from support.toys import (
    Iteration,
    MarkovPair,
    assert_law,
    assert_rate,
    decode_all,
    iterate,
    make,
    prefix_of,
    requests_of,
)

from mtad.core.noise import Noise
from mtad.methods.spectr import division_factor
from mtad.model.lm import LM
from mtad.sampling.params import SamplingParams
from mtad.sampling.warper import Warper
from mtad.speculative.beams import beams
from mtad.testing import TOY_DRAFT, TOY_START, TOY_TARGET

P, Q = oracles.markov(TOY_TARGET), oracles.markov(TOY_DRAFT)
EMPTY: Text = (TOY_START,)
PLAIN_PERPLEXITY = 2.468329
PAIRS = {
    "A": ((0.5, 0.3, 0.2), (0.2, 0.5, 0.3)),
    "B": ((0.45, 0.25, 0.2, 0.1), (0.1, 0.6, 0.05, 0.25)),
    "C": ((1.0, 0.0), (0.5, 0.5)),
    "D": ((0.5, 0.5, 0.0), (0.0, 0.5, 0.5)),
}
MANY = 5_000


def at(*tokens: int) -> Text:
    return (TOY_START, *tokens)


# --- MTAD ------------------------------------------------------------------------------------

MTAD_DRAFTS = [
    (at(), (1, 1, 1), (0.6, 0.666667, 0.740741)),
    (at(0), (2, 2, 2), (0.238095, 0.380952, 0.609524)),
    (at(1), (1, 1, 1), (1.111111, 1.234568, 1.371742)),
    (at(2), (2, 2, 2), (1.6, 2.56, 4.096)),
]


@pytest.mark.parametrize(("text", "draft", "ratios"), MTAD_DRAFTS)
def test_mtad_drafts_and_ratios(
    toy: MarkovPair, text: Text, draft: Text, ratios: tuple[float, ...]
) -> None:
    method = make("mtad", num_draft_tokens=3, beam_width=4, beam="search")
    tree = iterate(toy, method, [text]).tree
    assert tuple(tree.tokens[0, 1:].tolist()) == draft
    q = tree.joint_logprobs[0, 1:].exp().tolist()
    seen = [oracles.joint(P, text, draft[:i]) / q[i - 1] for i in (1, 2, 3)]
    assert seen == pytest.approx(ratios, abs=2e-6)
    assert oracles.ratios(P, Q, text, draft) == pytest.approx(ratios, abs=1e-6)
    assert oracles.beam_search(Q, text, 4, 3)[-1][0][0] == draft


def test_mtad_draft_probability(toy: MarkovPair) -> None:
    method = make("mtad", num_draft_tokens=3, beam_width=4, beam="search")
    tree = iterate(toy, method, [EMPTY]).tree
    assert float(tree.joint_logprobs[0, -1].exp()) == pytest.approx(0.10125, abs=1e-7)


@pytest.mark.parametrize(
    ("text", "threshold", "accepted"),
    [
        (at(), 0.5, 3),
        (at(), 0.65, 3),  # the first position fails and the last passes
        (at(), 0.7, 3),  # only the last position passes
        (at(), 0.75, 0),
        (at(), 0.9, 0),
        (at(0), 0.1, 3),
        (at(0), 0.3, 3),
        (at(0), 0.5, 3),
        (at(0), 0.9, 0),
        (at(1), 0.9, 3),
        (at(2), 0.9, 3),
        (at(2), 0.0, 3),
        (at(2), math.inf, 0),
    ],
)
def test_mtad_accepted_length(toy: MarkovPair, text: Text, threshold: float, accepted: int) -> None:
    method = make(
        "mtad", num_draft_tokens=3, beam_width=4, beam="search", accept_threshold=threshold
    )
    assert iterate(toy, method, [text]).verdict.num_accepted.tolist() == [accepted]


@pytest.mark.parametrize(("threshold", "accepted"), [(0.5, 3), (0.65, 0), (0.7, 0), (0.75, 0)])
def test_mtad_that_stops_at_the_first_failure(
    toy: MarkovPair, threshold: float, accepted: int
) -> None:
    method = make(
        "mtad",
        num_draft_tokens=3,
        beam_width=4,
        beam="search",
        accept_threshold=threshold,
        prefix="first_failure",
    )
    assert iterate(toy, method, [at()]).verdict.num_accepted.tolist() == [accepted]


def accepted_paths(toy: MarkovPair, name: str, **options: Any) -> dict[Text, Text]:
    """What a method with a deterministic draft accepts after every text of up to 3 new tokens."""
    texts = [at(*new) for length in range(4) for new in product(range(3), repeat=length)]
    blocks = iterate(toy, make(name, beam="search", beam_width=4, **options), texts).blocks
    return {text: block[:-1] for text, block in zip(texts, blocks, strict=True)}


def full_law(paths: dict[Text, Text]) -> Blocks:
    """The law of the first four tokens of an unlimited text.

    "First four" means that the last block may run over: with a budget of four tokens the drafts
    would shorten towards its end and the law would be another one.
    """
    return oracles.compose(lambda text, left: oracles.then_endpoint(P, text, paths[text]), EMPTY, 4)


@pytest.mark.parametrize(
    ("depth", "threshold", "perplexity"),
    [
        (2, 0.3, 2.586231),
        (2, 0.5, 2.410827),
        (2, 0.7, 2.197905),
        (2, 0.9, 2.197905),
        (2, 0.999999, 2.197905),  # blocks of ratio >= 1 pass
        (3, 0.3, 2.471883),
        (3, 0.5, 2.471883),
        (3, 0.7, 2.471883),
        (3, 0.9, 2.099446),
    ],
)
def test_mtad_perplexity(toy: MarkovPair, depth: int, threshold: float, perplexity: float) -> None:
    paths = accepted_paths(toy, "mtad", num_draft_tokens=depth, accept_threshold=threshold)
    assert oracles.perplexity(full_law(paths), P, EMPTY) == pytest.approx(perplexity, abs=1e-6)


@pytest.fixture(scope="module")
def sampled_drafts(toy: MarkovPair) -> dict[bool, Counter[Text]]:
    """Drafts of MTAD with two sampled beams, drawn with and without replacement."""
    drawn = {}
    for replacement in (True, False):
        beam = "sample_with_replacement" if replacement else "sample"
        method = make("mtad", num_draft_tokens=2, beam_width=2, beam=beam)
        tree = iterate(toy, method, [EMPTY] * MANY).tree
        drawn[replacement] = Counter(map(tuple, tree.tokens[:, 1:].tolist()))
    return drawn


SAMPLED_WITH_REPLACEMENT = {
    (0, 0): 0.01949,
    (0, 1): 0.00592,
    (0, 2): 0.06222,
    (1, 0): 0.20096,
    (1, 1): 0.42730,
    (1, 2): 0.04916,
    (2, 0): 0.01812,
    (2, 1): 0.04243,
    (2, 2): 0.17440,
}


def draft_law(replacement: bool) -> Blocks:
    law: Counter[Text] = Counter()
    for final, weight in oracles.beam_sampling(Q, EMPTY, 2, 2, replacement).items():
        law[final[0][0]] += weight
    return dict(law)


def test_mtad_sampled_draft_golden(sampled_drafts: dict[bool, Counter[Text]]) -> None:
    law = draft_law(replacement=True)
    assert law == pytest.approx(SAMPLED_WITH_REPLACEMENT, abs=6e-6)
    for draft, count in sampled_drafts[True].items():
        assert_rate(count, MANY, law[draft])


@pytest.mark.parametrize("replacement", [True, False])
def test_mtad_sampled_draft_law(
    sampled_drafts: dict[bool, Counter[Text]], replacement: bool
) -> None:
    assert_law(sampled_drafts[replacement].elements(), draft_law(replacement))


@pytest.mark.parametrize(
    ("threshold", "mean"),
    [
        (0.1, 2.0),
        (0.5, 1.738487),
        (0.8999, 0.560152),  # the ratio of draft (1, 2) is exactly 0.9: it passes at 0.9
        (0.9001, 0.461836),
    ],
)
def test_mtad_mean_accepted(toy: MarkovPair, threshold: float, mean: float) -> None:
    law = draft_law(replacement=True)
    lengths = {d: oracles.mtad_length(P, Q, EMPTY, d, threshold) for d in law}
    assert sum(w * lengths[d] for d, w in law.items()) == pytest.approx(mean, abs=1e-6)
    method = make(
        "mtad",
        num_draft_tokens=2,
        beam_width=2,
        beam="sample_with_replacement",
        accept_threshold=threshold,
    )
    seen = iterate(toy, method, [EMPTY] * MANY, seed=1).verdict.num_accepted.double()
    spread = sum(w * (lengths[d] - mean) ** 2 for d, w in law.items()) ** 0.5
    assert float(seen.mean()) == pytest.approx(mean, abs=5 * spread / MANY**0.5 + 1e-6)


# --- MMTAD -----------------------------------------------------------------------------------


def test_mmtad_nodes(toy: MarkovPair) -> None:
    method = make("mmtad", num_draft_tokens=3, beam_width=4, beam="search")
    tree = iterate(toy, method, [at(0)], suppress_tokens=[TOY_START]).tree
    line = tree.ancestors[0, :, 1:]
    paths = [tuple(tree.tokens[0, 1:][line[node]].tolist()) for node in range(tree.num_nodes)]
    alive = tree.alive[0].tolist()
    levels = [{p for p, a in zip(paths[lv], alive[lv], strict=True) if a} for lv in tree.levels]
    assert levels == [  # (1, 1) and (0, 2) are equally likely, so their order is open
        {()},
        {(2,), (0,), (1,)},
        {(2, 2), (1, 1), (0, 2), (2, 1)},
        {(2, 2, 2), (0, 2, 2), (1, 1, 1), (2, 2, 1)},
    ]
    joint = tree.joint_logprobs[0].tolist()
    assert all(oracles.is_descending(joint[level]) for level in tree.levels[2:])


@pytest.mark.parametrize(
    ("text", "threshold", "rule", "path"),
    [
        (at(0), 0.9, "own", (1, 1, 1)),
        (at(0), 0.9, "max", (0,)),
        (at(0), 0.9, "star", (0,)),
        (at(0), 0.5, "own", (1, 1, 1)),
        (at(0), 0.5, "max", (1, 1, 1)),
        (at(0), 0.5, "star", (1, 1, 1)),
        *[(at(), t, r, (2, 2, 2)) for t in (0.5, 0.9) for r in ("own", "max", "star")],
    ],
)
def test_mmtad_choice(toy: MarkovPair, text: Text, threshold: float, rule: str, path: Text) -> None:
    method = make(
        "mmtad",
        num_draft_tokens=3,
        beam_width=4,
        beam="search",
        accept_threshold=threshold,
        rule=rule,
    )
    assert iterate(toy, method, [text]).blocks[0][:-1] == path


@pytest.mark.parametrize(
    ("depth", "threshold", "perplexity"),
    [(2, 0.5, 2.037060), (2, 0.9, 2.063117), (3, 0.5, 1.959486), (3, 0.9, 1.959486)],
)
def test_mmtad_perplexity(toy: MarkovPair, depth: int, threshold: float, perplexity: float) -> None:
    paths = accepted_paths(toy, "mmtad", num_draft_tokens=depth, accept_threshold=threshold)
    assert oracles.perplexity(full_law(paths), P, EMPTY) == pytest.approx(perplexity, abs=1e-6)


@pytest.mark.parametrize(("rule", "path"), [("own", (1,)), ("max", ()), ("star", (0,))])
def test_mmtad_reads_its_threshold_along_the_ancestors_of_the_best_beam(
    rule: str, path: Text
) -> None:
    """The best beam (1, 0) overtakes (0, 0) at depth 2: its ancestor is not in the first place."""
    p = [[0.1, 0.1, 0.8], [0.1, 0.8, 0.1], [0.1, 0.8, 0.1], [0.25, 0.2, 0.55]]
    q = [[0.34, 0.33, 0.33], [1.0, 0.0, 0.0], [0.2, 0.3, 0.5], [0.5, 0.3, 0.2]]
    pair = MarkovPair.of(p, q)
    options = {"num_draft_tokens": 2, "beam_width": 2, "beam": "search", "accept_threshold": 0.6}
    assert iterate(pair, make("mmtad", rule=rule, **options), [(3,)]).blocks[0][:-1] == path


@pytest.mark.parametrize("rule", ["own", "max", "star"])
@pytest.mark.parametrize("threshold", [0.2, 0.45, 0.8, 1.1])
@pytest.mark.parametrize("width", [1, 2, 4])
def test_mmtad_paths_match_the_oracle(
    toy: MarkovPair, rule: str, threshold: float, width: int
) -> None:
    texts = [at(*new) for length in range(3) for new in product(range(3), repeat=length)]
    options = {"num_draft_tokens": 3, "beam_width": width, "beam": "search", "rule": rule}
    method = make("mmtad", accept_threshold=threshold, **options)
    seen = [block[:-1] for block in iterate(toy, method, texts).blocks]
    levels = [oracles.beam_search(Q, text, width, 3) for text in texts]
    wanted = [
        oracles.mmtad_path(P, t, lv, threshold, rule) for t, lv in zip(texts, levels, strict=True)
    ]
    assert seen == wanted


# --- MTJD ------------------------------------------------------------------------------------

JOINT_WARPS: dict[str, dict[str, Any]] = {
    "top_p": {"top_p": 0.6},
    "top_k": {"top_k": 2},
    "temperature": {"temperature": 0.5},
    "argmax": {"temperature": 0},
    "none": {},
}


def mtjd_blocks(toy: MarkovPair, joint: str, depth: int, texts: list[Text]) -> list[Blocks]:
    """The block laws that MTJD draws from, read from the method itself."""
    method = make("mtjd", num_block_tokens=depth, joint=joint)
    sampling = {} if joint == "argmax" else JOINT_WARPS[joint]
    prefix = prefix_of(texts)
    rows = [SamplingParams(**sampling)] * len(texts)
    warp = Warper.of(rows, toy.vocab, torch.device("cpu")).at(prefix)
    with torch.inference_mode():
        lm = LM(toy.target, "target", toy.vocab, len(texts), 512)
        lm.prefill(texts)
        noise = Noise(torch.arange(len(texts)), prefix.num_new)
        tree, state = beams(
            lm, prefix, warp, noise, width=1, depth=depth, selection="all", scored_by="raw"
        )
        law = method.block_logprobs(state.scores, warp).exp()
    leaves = tree.ancestors[0, tree.last_level, 1:]
    names = [tuple(tree.tokens[0, 1:][line].tolist()) for line in leaves]
    return [{name: w for name, w in zip(names, row, strict=True) if w > 0} for row in law.tolist()]


def mtjd_law(toy: MarkovPair, joint: str, depth: int) -> Blocks:
    texts = [at(*new) for length in range(4) for new in product(range(3), repeat=length)]
    known = dict(zip(texts, mtjd_blocks(toy, joint, depth, texts), strict=True))
    law = oracles.compose(lambda text, left: known[text], EMPTY, 4)
    return {text: weight for text, weight in law.items() if weight > 1e-12}


@pytest.mark.parametrize(
    ("joint", "depth", "perplexity"),
    [
        ("top_p", 1, 2.146),
        ("top_p", 2, 1.972),
        ("top_p", 4, 2.070),
        ("top_k", 1, 2.209),
        ("top_k", 2, 1.859),
        ("top_k", 4, 1.756),
        ("temperature", 1, 2.087),
        ("temperature", 2, 2.057),
        ("temperature", 4, 2.018),
        ("none", 1, 2.468),
        ("none", 2, 2.468),
        ("none", 4, 2.468),
    ],
)
def test_mtjd_perplexity(toy: MarkovPair, joint: str, depth: int, perplexity: float) -> None:
    def blocks(text: Text, left: int) -> Blocks:
        return oracles.joint_blocks(P, text, depth, lambda logs: oracles.warp(logs, **settings))

    settings = JOINT_WARPS[joint]
    exact = oracles.perplexity(oracles.compose(blocks, EMPTY, 4), P, EMPTY)
    seen = oracles.perplexity(mtjd_law(toy, joint, depth), P, EMPTY)
    assert exact == pytest.approx(perplexity, abs=5e-4)
    assert seen == pytest.approx(exact, abs=1e-6)


def test_plain_perplexity() -> None:
    law = oracles.text_law(P, EMPTY, 4)
    assert oracles.perplexity(law, P, EMPTY) == pytest.approx(PLAIN_PERPLEXITY, abs=1e-6)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_mtjd_without_a_joint_warp_is_plain_sampling(toy: MarkovPair, depth: int) -> None:
    plain = oracles.text_law(P, EMPTY, 4)
    assert mtjd_law(toy, "none", depth) == pytest.approx(plain, abs=1e-6)


@pytest.mark.parametrize("joint", ["top_p", "top_k", "temperature"])
def test_mtjd_of_one_token_is_the_token_level_warp(toy: MarkovPair, joint: str) -> None:
    def token_law(text: Text) -> list[float]:
        return oracles.warp([oracles.log(x) for x in P(text)], **JOINT_WARPS[joint])

    plain = oracles.text_law(token_law, EMPTY, 4)
    assert mtjd_law(toy, joint, 1) == pytest.approx(plain, abs=1e-6)


@pytest.mark.parametrize("beam", [False, True])
@pytest.mark.parametrize("length", [2, 3, 4])
def test_mtjd_of_the_whole_output_is_the_most_likely_text(
    toy: MarkovPair, length: int, beam: bool
) -> None:
    best = max(oracles.text_law(P, EMPTY, length).items(), key=lambda item: item[1])[0]
    if beam:  # |V|^(γ - 1) beams make the search exact
        options = {"joint": "beam", "beam_width": 3 ** (length - 1)}
        sampling = {"temperature": 0.0}
    else:
        options, sampling = {"joint": "argmax"}, {}
    method = make("mtjd", num_block_tokens=length, **options)
    requests = requests_of([EMPTY], max_new_tokens=length, **sampling)
    assert decode_all(toy.target, None, method, requests, toy.vocab) == [list(best)]


@pytest.mark.parametrize("joint", ["none", "temperature", "top_k", "top_p"])
def test_mtjd_draws_from_its_block_law(toy: MarkovPair, joint: str) -> None:
    settings = JOINT_WARPS[joint]
    blocks = oracles.joint_blocks(P, EMPTY, 3, lambda logs: oracles.warp(logs, **settings))
    method = make("mtjd", num_block_tokens=3, joint=joint)
    assert_law(iterate(toy, method, [EMPTY] * 3_000, **settings).blocks, blocks)


def test_mtjd_beam_sampling_law(toy: MarkovPair) -> None:
    law: Counter[Text] = Counter()
    for final, weight in oracles.beam_sampling(P, EMPTY, 2, 2, replacement=False).items():
        total = sum(score for _, score in final)
        for block, score in final:
            law[block] += weight * score / total
    method = make("mtjd", num_block_tokens=2, joint="beam", beam_width=2)
    assert_law(iterate(toy, method, [EMPTY] * 7_000).blocks, law)


# --- acceptance probabilities of single positions -----------------------------------------------


def constant(law: tuple[float, ...]) -> Law:
    return lambda text: law


SINGLE = [
    ("speculative_sampling", {"num_draft_tokens": 1}, "A", 0.7),
    ("speculative_sampling", {"num_draft_tokens": 1}, "D", 0.5),
    ("block_verification", {"num_draft_tokens": 1}, "A", 0.7),
    ("spectr", {"num_drafts": 2, "num_draft_tokens": 1}, "A", 0.791355),
    ("spectr", {"num_drafts": 3, "num_draft_tokens": 1}, "A", 0.858519),
    ("spectr", {"num_drafts": 2, "num_draft_tokens": 1}, "B", 0.595411),
    ("spectr", {"num_drafts": 3, "num_draft_tokens": 1}, "B", 0.674229),
    ("spectr", {"num_drafts": 2, "num_draft_tokens": 1}, "C", 0.75),
    ("spectr", {"num_drafts": 3, "num_draft_tokens": 1}, "C", 0.875),
    ("spectr", {"num_drafts": 2, "num_draft_tokens": 1}, "D", 0.5),
    ("specinfer", {"k_config": (2,)}, "A", 0.76),
    ("specinfer", {"k_config": (3,)}, "A", 0.808),
    ("specinfer", {"k_config": (2,)}, "B", 0.575),
    ("specinfer", {"k_config": (3,)}, "B", 0.63875),
    ("specinfer", {"k_config": (2,)}, "C", 0.75),
    ("specinfer", {"k_config": (3,)}, "C", 0.875),
    ("specinfer", {"k_config": (2,)}, "D", 0.5),
    ("mcss", {"k_config": (2,), "replacement": "with"}, "A", 0.76),
    ("mcss", {"k_config": (3,), "replacement": "with"}, "B", 0.63875),
    ("mcss", {"k_config": (2,)}, "A", 0.808571),
    ("mcss", {"k_config": (3,)}, "A", 1.0),
    ("mcss", {"k_config": (2,)}, "B", 0.66125),
    ("mcss", {"k_config": (3,)}, "B", 0.983333),
    ("mcss", {"k_config": (2,)}, "C", 1.0),
    ("mcss", {"k_config": (2,)}, "D", 0.5),
]


def block_law(name: str, options: dict[str, Any], p: Law, q: Law, text: Text) -> Blocks:
    """The oracle's law of one iteration of a lossless method."""
    depth = options.get("num_draft_tokens", 0)
    if name == "speculative_sampling":
        return oracles.speculative_blocks(p, q, text, depth)
    if name == "block_verification":
        return oracles.block_verification_blocks(p, q, text, depth)
    if name == "spectr":
        return oracles.spectr_blocks(p, q, text, options["num_drafts"], depth)
    replacement = options.get("replacement", "with" if name == "specinfer" else "without")
    if replacement == "naive":
        return oracles.naive_blocks(p, q, text, options["k_config"])
    return oracles.tree_blocks(p, q, text, options["k_config"], replacement == "with")


@pytest.mark.parametrize(("name", "options", "pair", "acceptance"), SINGLE)
def test_acceptance_of_one_position(
    name: str, options: dict[str, Any], pair: str, acceptance: float
) -> None:
    p, q = PAIRS[pair]
    exact = oracles.mean_length(block_law(name, options, constant(p), constant(q), ())) - 1
    assert exact == pytest.approx(acceptance, abs=1e-6)
    once = iterate(MarkovPair.everywhere(p, q), make(name, **options), [(0,)] * MANY)
    assert_rate(int(once.verdict.num_accepted.sum()), MANY, exact)
    first = Counter(block[0] for block in once.blocks)
    assert_law(first.elements(), dict(enumerate(p)))


def test_speculative_residual_of_disjoint_mass() -> None:
    """Pair D: whatever is rejected leaves token 0 alone."""
    pair = MarkovPair.everywhere(*PAIRS["D"])
    once = iterate(pair, make("speculative_sampling", num_draft_tokens=1), [(0,)] * 2000)
    assert {block[0] for block in once.blocks if len(block) == 1} == {0}
    assert {block[0] for block in once.blocks if len(block) == 2} == {1}


@pytest.mark.parametrize(
    ("pair", "k", "factor"),
    [
        ("A", 1, 1.0),
        ("A", 2, 1.456776),
        ("A", 3, 1.792593),
        ("B", 2, 1.636073),
        ("B", 3, 2.161528),
        ("C", 2, 1.5),
        ("C", 3, 1.75),
        ("D", 2, 1.707107),
    ],
)
def test_spectr_division_factor(pair: str, k: int, factor: float) -> None:
    p, q = (torch.tensor([law]).log() for law in PAIRS[pair])
    rho = float(division_factor(p, q, torch.tensor([k])))
    assert rho == pytest.approx(factor, abs=1e-6)
    assert oracles.division_factor(*PAIRS[pair], k) == pytest.approx(factor, abs=1e-6)
    assert min(oracles.excess(PAIRS[pair][0], [rho * x for x in PAIRS[pair][1]])) >= 0


@pytest.mark.parametrize(
    ("pair", "k", "best"),
    [("A", 2, 0.86), ("A", 3, 0.988), ("B", 2, 0.6275), ("B", 3, 0.735875), ("C", 3, 0.875)],
)
def test_no_rule_for_independent_drafts_beats_optimal_transport(
    pair: str, k: int, best: float
) -> None:
    p, q = PAIRS[pair]
    assert oracles.optimal_transport(p, q, k) == pytest.approx(best, abs=1e-9)
    reached = oracles.mean_length(oracles.spectr_blocks(constant(p), constant(q), (), k, 1)) - 1
    assert (1 - 1 / math.e) * best <= reached <= best + 1e-9


# --- whole iterations --------------------------------------------------------------------------

ITERATIONS = [
    ("speculative_sampling", {"num_draft_tokens": 2}, 2.231),
    ("speculative_sampling", {"num_draft_tokens": 3}, 2.63087),
    ("block_verification", {"num_draft_tokens": 2}, 2.326),
    ("block_verification", {"num_draft_tokens": 3}, 2.8574),
    ("spectr", {"num_drafts": 1, "num_draft_tokens": 2}, 2.231),
    ("spectr", {"num_drafts": 2, "num_draft_tokens": 2}, 2.417227),
    ("spectr", {"num_drafts": 3, "num_draft_tokens": 2}, 2.557103),
    ("specinfer", {"k_config": (2, 1)}, 2.3318),
    ("specinfer", {"k_config": (2, 2)}, 2.41596),
    ("specinfer", {"k_config": (3, 1)}, 2.41244),
    ("mcss", {"k_config": (2, 1), "replacement": "with"}, 2.3318),
    ("mcss", {"k_config": (2, 1)}, 2.4134),
    ("mcss", {"k_config": (2, 2)}, 2.539605),
    ("mcss", {"k_config": (3, 1)}, 2.735),
    ("mcss", {"k_config": (2, 1), "replacement": "naive"}, None),
    ("mcss", {"k_config": (2, 2), "replacement": "naive"}, None),
    ("mcss", {"k_config": (3, 1), "replacement": "naive"}, None),
]


@pytest.mark.parametrize(("name", "options", "golden"), ITERATIONS)
def test_law_of_one_iteration(
    toy: MarkovPair, name: str, options: dict[str, Any], golden: float | None
) -> None:
    """Not only E[tokens per iteration]: every block comes as often as the definition says."""
    exact = block_law(name, options, P, Q, EMPTY)
    if golden is not None:
        assert oracles.mean_length(exact) == pytest.approx(golden, abs=1e-6)
    blocks = iterate(toy, make(name, **options), [EMPTY] * 3_000).blocks
    mean = oracles.mean_length(exact)
    spread = sum(w * (len(b) - mean) ** 2 for b, w in exact.items()) ** 0.5
    seen = sum(map(len, blocks)) / len(blocks)
    assert seen == pytest.approx(mean, abs=5 * spread / len(blocks) ** 0.5)
    assert_law(blocks, exact)


@pytest.mark.parametrize(
    ("name", "accepted"), [("speculative_sampling", 10 / 9), ("block_verification", 11 / 9)]
)
def test_the_example_of_the_block_verification_paper(name: str, accepted: float) -> None:
    p, q = (1 / 3, 2 / 3), (2 / 3, 1 / 3)
    options = {"num_draft_tokens": 2}
    exact = block_law(name, options, constant(p), constant(q), (0,))
    assert oracles.mean_length(exact) - 1 == pytest.approx(accepted, abs=1e-9)
    once: Iteration = iterate(MarkovPair.everywhere(p, q), make(name, **options), [(0,)] * 10_000)
    assert_law(once.blocks, exact)

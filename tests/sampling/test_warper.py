"""From logits to laws, and the random numbers that draw from them."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import Any

import pytest
import torch
from scipy import stats
from support import oracles
from support.toys import assert_law, prefix_of
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from mtad.core.noise import (
    Noise,
    first_argmax,
    normalize,
    sample,
    sample_distinct,
    sample_many,
)
from mtad.core.prefix import Prefix
from mtad.core.tree import TokenTree
from mtad.sampling.params import SamplingParams
from mtad.sampling.warper import Warper

CPU = torch.device("cpu")


def warp_once(logits: Tensor, **sampling: Any) -> Tensor:
    """The probabilities after the root of every row."""
    prefix = prefix_of([[0]] * len(logits))
    warp = Warper.of([SamplingParams(**sampling)] * len(logits), logits.shape[1], CPU).at(prefix)
    return warp(logits[:, None].float(), prefix.root())[:, 0].exp()


def random_logits(rows: int, vocab: int, spread: float = 3.0) -> Tensor:
    return spread * torch.randn(rows, vocab, generator=torch.Generator().manual_seed(0))


# --- truncation --------------------------------------------------------------------------------


def test_top_k_keeps_ties_at_the_boundary() -> None:
    law = warp_once(torch.tensor([[3.0, 2.0, 2.0, 1.0]]), top_k=2)
    assert (law[0] > 0).tolist() == [True, True, True, False]
    assert float(law.sum()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [(0.05, 1), (0.49, 1), (0.51, 2), (0.79, 2), (0.81, 3), (0.94, 3), (0.96, 4), (1.0, 4)],
)
def test_top_p_keeps_the_token_that_crosses(top_p: float, kept: int) -> None:
    probs = torch.tensor([[0.15, 0.5, 0.05, 0.3]])
    law = warp_once(probs.log(), top_p=top_p)[0]
    largest = probs[0].argsort(descending=True)[:kept]
    assert set(law.nonzero().flatten().tolist()) == set(largest.tolist())
    assert torch.allclose(law[largest], probs[0, largest] / probs[0, largest].sum())


def test_top_p_keeps_a_token_with_a_mass_of_exactly_p_before_it() -> None:
    law = warp_once(torch.tensor([[0.5, 0.25, 0.25]]).log(), top_p=0.5)[0]
    assert int((law > 0).sum()) == 2


def test_min_p_is_a_share_of_the_most_likely_token() -> None:
    law = warp_once(torch.tensor([[0.5, 0.3, 0.14, 0.06]]).log(), min_p=0.25)[0]
    assert (law > 0).tolist() == [True, True, True, False]


def test_temperature_zero_is_one_hot_on_the_first_largest_logit() -> None:
    law = warp_once(torch.tensor([[1.0, 7.0, 7.0], [2.0, 0.0, 1.0]]), temperature=0.0)
    assert law.tolist() == [[0, 1, 0], [1, 0, 0]]


@pytest.mark.parametrize(
    "sampling",
    [
        {"top_k": 1},
        {"top_p": 1e-6},
        {"min_p": 1.0},
        {"temperature": 0.0, "top_k": 3, "top_p": 0.5, "min_p": 0.2},
    ],
)
def test_settings_that_leave_the_argmax_alone(sampling: dict[str, Any]) -> None:
    logits = random_logits(50, 11)
    law = warp_once(logits, **sampling)
    assert torch.equal(law, torch.nn.functional.one_hot(logits.argmax(1), 11).float())


def test_a_top_k_beyond_the_vocabulary_changes_nothing() -> None:
    logits = random_logits(20, 7)
    assert torch.allclose(warp_once(logits, top_k=50), logits.softmax(1))


WARPS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.6},
    {"temperature": 1.7, "top_k": 5},
    {"top_p": 0.8},
    {"min_p": 0.1},
    {"temperature": 0.8, "top_k": 9, "top_p": 0.7},
    {"temperature": 1.3, "top_k": 12, "top_p": 0.9, "min_p": 0.2},
]


@pytest.mark.parametrize("sampling", WARPS)
def test_warp_against_the_definition(sampling: dict[str, Any]) -> None:
    logits = random_logits(40, 23)
    law = warp_once(logits, **sampling)
    for row, seen in zip(logits.double().tolist(), law.tolist(), strict=True):
        assert seen == pytest.approx(oracles.warp(row, **sampling), abs=2e-6)


def reference(sampling: dict[str, Any]) -> LogitsProcessorList:
    """The warpers of transformers for the same settings, in its order."""
    makers = {
        "temperature": TemperatureLogitsWarper,
        "top_k": TopKLogitsWarper,
        "top_p": TopPLogitsWarper,
        "min_p": MinPLogitsWarper,
    }
    return LogitsProcessorList(make(sampling[k]) for k, make in makers.items() if k in sampling)


@pytest.mark.parametrize("sampling", WARPS)
def test_warp_against_transformers(sampling: dict[str, Any]) -> None:
    logits = random_logits(200, 101)
    wanted = reference(sampling)(torch.zeros(200, 1, dtype=torch.int64), logits).softmax(1)
    assert torch.allclose(warp_once(logits, **sampling), wanted, atol=2e-6)


def test_rows_of_a_batch_keep_their_own_settings() -> None:
    logits = random_logits(len(WARPS), 23)
    prefix = prefix_of([[0]] * len(WARPS))
    warp = Warper.of([SamplingParams(**w) for w in WARPS], 23, CPU).at(prefix)
    together = warp(logits[:, None], prefix.root())[:, 0].exp()
    for row, sampling in enumerate(WARPS):
        alone = warp_once(logits[row : row + 1], **sampling)[0]
        assert torch.allclose(together[row], alone, atol=1e-6)


def test_a_large_vocabulary_with_extreme_logits() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = (torch.rand(2, 128_000, generator=generator) * 160 - 80).half()
    prefix = prefix_of([[0]] * 2)
    for sampling in WARPS:
        params = SamplingParams(**sampling)
        warp = Warper.of([params, params], 128_000, CPU).at(prefix)
        law = warp(logits[:, None].float(), prefix.root())[:, 0]
        assert not law.isnan().any()
        exact = logits.double() / params.temperature
        exact = exact.masked_fill(law == -math.inf, -math.inf).log_softmax(1)
        assert torch.equal(law == -math.inf, exact == -math.inf)
        finite = law > -math.inf
        assert torch.allclose(law[finite].double(), exact[finite], atol=1e-3, rtol=1e-5)
        assert torch.allclose(law.double().exp(), exact.exp(), atol=1e-5)


# --- penalties and bans ------------------------------------------------------------------------

VOCAB = 7
PROMPT = [3, 3, 5]
PENALTIES: list[dict[str, Any]] = [
    {"repetition_penalty": 1.7},
    {"repetition_penalty": 0.6},
    {"frequency_penalty": 0.9},
    {"presence_penalty": 0.9},
    {"repetition_penalty": 1.2, "frequency_penalty": 0.3, "presence_penalty": -0.5},
    {"logit_bias": {1: 2.0, 4: -3.0}, "repetition_penalty": 1.5},
    {"suppress_tokens": (0, 6)},
    {"eos_token_ids": (2, 4), "min_new_tokens": 4},
    {"logit_bias": {5: 1.0}, "frequency_penalty": 0.5, "suppress_tokens": (2,), "top_k": 4},
]


def bushy_tree(prefix: Prefix) -> TokenTree:
    """A tree of widths 1, 2, 3, whose paths are (0,), (5,), (0, 0), (5, 1), (5, 5)."""
    tree = prefix.root()
    for tokens, parents in (([0, 5], [0, 0]), ([0, 1, 5], [1, 2, 2])):
        ones = torch.ones(1, len(tokens))
        tree = tree.grow(torch.tensor([tokens]), torch.tensor([parents]), ones > 0, -ones)
    return tree


PATHS = [(), (0,), (5,), (0, 0), (5, 1), (5, 5)]


@pytest.mark.parametrize("sampling", PENALTIES)
@pytest.mark.parametrize("output", [[], [5, 1, 5]])
def test_penalties_follow_the_paths_of_a_tree(sampling: dict[str, Any], output: list[int]) -> None:
    """Every node is judged by the text that leads to it, as if it had been decoded alone."""
    logits = random_logits(len(PATHS), VOCAB)
    eos = sampling.get("eos_token_ids", ())
    prefix = prefix_of([PROMPT + output], prompt_length=len(PROMPT))
    if eos:
        prefix = Prefix(**{**vars(prefix), "eos": torch.tensor([list(eos)])})
    warp = Warper.of([SamplingParams(**sampling)], VOCAB, CPU).at(prefix)
    law = warp(logits[None], bushy_tree(prefix))[0].exp()
    rules = {k: v for k, v in sampling.items() if k not in ("eos_token_ids", "top_k")}
    for row, path, seen in zip(logits.double().tolist(), PATHS, law.tolist(), strict=True):
        text = (*output, *path)
        scores = oracles.penalized(row, tuple(PROMPT), text, eos=eos, **rules)
        assert seen == pytest.approx(oracles.warp(scores, top_k=sampling.get("top_k", 0)), abs=2e-6)


@pytest.mark.parametrize(
    ("sampling", "processors"),
    [
        ({"repetition_penalty": 1.4}, [RepetitionPenaltyLogitsProcessor(1.4)]),
        ({"suppress_tokens": (1, 3)}, [SuppressTokensLogitsProcessor([1, 3])]),
        ({"logit_bias": {2: 1.5, 0: -1.0}}, [SequenceBiasLogitsProcessor({(2,): 1.5, (0,): -1.0})]),
        (
            {"logit_bias": {5: 4.0}, "repetition_penalty": 1.4, "temperature": 0.5, "top_k": 3},
            [
                SequenceBiasLogitsProcessor({(5,): 4.0}),
                RepetitionPenaltyLogitsProcessor(1.4),
                TemperatureLogitsWarper(0.5),
                TopKLogitsWarper(3),
            ],
        ),
        (
            {"eos_token_ids": (2,), "min_new_tokens": 4},
            [MinNewTokensLengthLogitsProcessor(3, 4, [2], device="cpu")],
        ),
        (
            {"eos_token_ids": (2,), "min_new_tokens": 2},
            [MinNewTokensLengthLogitsProcessor(3, 2, [2], device="cpu")],
        ),
    ],
)
def test_processors_against_transformers(
    sampling: dict[str, Any], processors: list[LogitsProcessor]
) -> None:
    text = [*PROMPT, 5, 1, 5]
    logits = random_logits(30, VOCAB)
    wanted = LogitsProcessorList(processors)(torch.tensor([text] * 30), logits.clone()).softmax(1)
    prefix = prefix_of([text] * 30, prompt_length=len(PROMPT))
    eos = torch.tensor([list(sampling.get("eos_token_ids", (-1,)))] * 30)
    prefix = Prefix(**{**vars(prefix), "eos": eos})
    warp = Warper.of([SamplingParams(**sampling)] * 30, VOCAB, CPU).at(prefix)
    law = warp(logits[:, None], prefix.root())[:, 0].exp()
    assert torch.allclose(law, wanted, atol=2e-6)


def test_raw_and_tempered_laws_leave_truncation_out() -> None:
    logits = random_logits(20, 9)
    prefix = prefix_of([[0]] * 20)
    params = SamplingParams(temperature=0.5, top_k=2, top_p=0.6, min_p=0.3)
    warp = Warper.of([params] * 20, 9, CPU).at(prefix)
    root = prefix.root()
    assert torch.allclose(warp.raw(logits[:, None], root)[:, 0].exp(), logits.softmax(1))
    tempered = warp.tempered(logits[:, None], root)[:, 0].exp()
    assert torch.allclose(tempered, (logits / 0.5).softmax(1), atol=1e-6)


# --- noise -------------------------------------------------------------------------------------


def noise(seeds: Tensor, position: int = 0) -> Noise:
    return Noise(seeds, torch.full_like(seeds, position))


SEEDS = torch.arange(20_000)


def test_noise_is_uniform() -> None:
    by_seed = noise(SEEDS).uniform("a")
    by_index = noise(SEEDS[:1]).uniform("a", 20_000)[0]
    by_position = Noise(torch.zeros_like(SEEDS), SEEDS).uniform("a")
    for numbers in (by_seed, by_index, by_position):
        assert float(numbers.min()) > 0 and float(numbers.max()) < 1
        assert stats.kstest(numbers.numpy(), "uniform").pvalue > 1e-4


def test_penalties_make_one_tensor_as_large_as_the_logits() -> None:
    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            made = func(*args, **(kwargs or {}))
            if isinstance(made, Tensor) and not func.is_view:
                sizes.append(made.numel())
            return made

    sizes: list[int] = []
    prefix = prefix_of([[3, 1, 4, 1]])
    given = SamplingParams(repetition_penalty=1.2, frequency_penalty=0.1, presence_penalty=0.1)
    warp = Warper.of([given], 1000, torch.device("cpu")).at(prefix)
    tree = TokenTree.chain(torch.tensor([[1, 5, 9, 5, 2]]), torch.tensor([4]))
    with Sizes():
        warp.process(torch.zeros(1, 5, 1000), tree, None)
    assert (
        sum(size >= 1000 for size in sizes) == 2
    )  # the logits themselves, and what becomes of them


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (noise(SEEDS).uniform("a"), noise(SEEDS + 1).uniform("a")),
        (noise(SEEDS).uniform("a"), noise(SEEDS, 1).uniform("a")),
        (noise(SEEDS).uniform("a"), noise(SEEDS + 1, -1).uniform("a")),
        (noise(SEEDS).uniform("a"), noise(SEEDS).uniform("b")),
        (noise(SEEDS).uniform("draft 0"), noise(SEEDS).uniform("draft 1")),
        (noise(SEEDS).uniform("endpoint"), noise(SEEDS, 1).uniform("endpoint")),
        tuple(noise(SEEDS).uniform("a", 2).unbind(1)),
        (noise(SEEDS).uniform("a", 3)[:, 2], noise(SEEDS, 1).uniform("a", 3)[:, 1]),
    ],
    ids=["seed", "position", "both", "tag", "depth", "step", "index", "index and position"],
)
def test_noise_is_independent_across(a: Tensor, b: Tensor) -> None:
    bound = 5 / len(a) ** 0.5
    assert abs(float(torch.corrcoef(torch.stack([a, b]))[0, 1])) < bound
    cells = Counter(zip((a * 8).long().tolist(), (b * 8).long().tolist(), strict=True))
    assert_law(cells.elements(), {(i, j): 1 / 64 for i in range(8) for j in range(8)})


def test_noise_depends_on_seed_position_tag_and_index_alone() -> None:
    alone = Noise(torch.tensor([7]), torch.tensor([3])).uniform("tag", 2, 5)
    crowd = Noise(torch.tensor([1, 7, 9]), torch.tensor([0, 3, 3])).uniform("tag", 2, 5)
    assert torch.equal(alone[0], crowd[1])
    longer = Noise(torch.tensor([7]), torch.tensor([3])).uniform("tag", 20)
    assert torch.equal(alone.flatten(), longer[0, :10])


def test_noise_of_extreme_seeds_is_in_range() -> None:
    seeds = torch.tensor([-(2**63), 2**63 - 1, -1, 0])
    numbers = noise(seeds, 2**40).uniform("a", 1000)
    assert ((numbers > 0) & (numbers < 1)).all()
    assert len(numbers.unique()) == numbers.numel()


# --- drawing -----------------------------------------------------------------------------------


def test_sample_has_the_law() -> None:
    probs = [0.05, 0.0, 0.6, 0.05, 0.3, 0.0]
    law = torch.tensor(probs).log().expand(len(SEEDS), -1)
    drawn = sample(law, noise(SEEDS).uniform("x"))
    assert_law(drawn.tolist(), dict(enumerate(probs)))


@pytest.mark.parametrize("u", [0.0, 1e-300, 0.5, 1 - 2**-53, 1.0 - 2**-41])
def test_sample_never_returns_a_token_of_probability_zero(u: float) -> None:
    probs = torch.tensor([[0.0, 0.5, 0.0, 0.5, 0.0], [0.0, 0.0, 1.0, 0.0, 0.0]])
    drawn = sample(probs.log(), torch.full((2,), u, dtype=torch.float64))
    assert (probs.gather(1, drawn[:, None]) > 0).all()


def test_sample_many_draws_independently() -> None:
    probs = [0.2, 0.5, 0.3]
    law = torch.tensor(probs).log().expand(len(SEEDS), -1)
    pairs = sample_many(law, noise(SEEDS).uniform("x", 2))
    joint = {(i, j): probs[i] * probs[j] for i in range(3) for j in range(3)}
    assert_law(map(tuple, pairs.tolist()), joint)


def test_distinct_draws_are_independent_ones_without_those_before() -> None:
    """The law of the first, and of each further one the law of the rest."""
    probs = [0.1, 0.0, 0.6, 0.3]
    law = torch.tensor(probs).log().expand(len(SEEDS), -1)
    drawn, are_there = sample_distinct(law, noise(SEEDS).uniform("x", 4))
    assert are_there.tolist() == [[True, True, True, False]] * len(SEEDS)
    orders = {
        (i, j, k): probs[i] * probs[j] / (1 - probs[i])
        for i, j, k in itertools.permutations([0, 2, 3])
    }
    assert_law(map(tuple, drawn[:, :3].tolist()), orders)


@pytest.mark.parametrize("gap", [80.0, 650.0])
def test_distinct_draws_know_tokens_beside_a_certain_one(gap: float) -> None:
    logprobs = torch.tensor([[-gap, 0.0, -gap], [-math.inf, -math.inf, -gap]])
    drawn, are_there = sample_distinct(logprobs, torch.full((2, 3), 0.6, dtype=torch.float64))
    assert drawn[0].tolist() == [1, 2, 0] and drawn[1, 0] == 2
    assert are_there.tolist() == [[True, True, True], [True, False, False]]


def test_where_nothing_can_be_drawn_nothing_is() -> None:
    drawn, are_there = sample_distinct(
        torch.full((1, 3), -math.inf), torch.full((1, 2), 0.5).double()
    )
    assert not are_there.any() and drawn.max() < 3


def test_distinct_draws_do_not_depend_on_tokens_that_cannot_be_drawn() -> None:
    few = torch.randn(200, 20, generator=torch.Generator().manual_seed(3))
    places = torch.arange(20) * 7 + 2
    wide = torch.full((200, 150), -math.inf).index_copy(1, places, few)
    u = noise(SEEDS[:200]).uniform("x", 6)
    assert torch.equal(sample_distinct(wide, u)[0], places[sample_distinct(few, u)[0]])


@pytest.mark.slow
def test_sample_from_a_large_vocabulary() -> None:
    """Rare tokens at the far end of 128k are drawn as often as they should be."""
    weights = torch.full((128_000,), 1e-6)
    weights[0], weights[-1] = 1.0, 0.5
    law = normalize(weights[None]).expand(200, -1)
    drawn = sample_many(law, noise(SEEDS[:200]).uniform("x", 100)).flatten()
    total = float(weights.double().sum())
    cells = {0: 1 / total, 1: 1 - 1.5 / total, 2: 0.5 / total}
    kinds = torch.where(drawn == 0, 0, torch.where(drawn == 127_999, 2, 1))
    assert_law(kinds.tolist(), cells)


def test_first_argmax_takes_the_lowest_index() -> None:
    values = torch.tensor([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0], [-math.inf, -math.inf, -math.inf]])
    assert first_argmax(values).tolist() == [1, 0, 0]

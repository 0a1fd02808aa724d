"""Inequalities that hold for every pair of laws, on random tables."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.toys import TableLM, make, prefix_of

from mtad.core.noise import Noise
from mtad.core.tree import TokenTree
from mtad.sampling.params import SamplingParams
from mtad.sampling.warper import Warper
from mtad.speculative.method import Verdict

ROWS = 64
STATES = 53


@dataclass(frozen=True)
class World:
    """Random laws p and q of `ROWS` rows, which depend on the whole path."""

    vocab: int
    depth: int
    width: int
    flatness: float
    seed: int

    def laws(self, offset: int) -> torch.Tensor:
        torch.manual_seed(self.seed * 2 + offset)
        shape = torch.full((ROWS, STATES, self.vocab), self.flatness)
        return torch.distributions.Gamma(shape, torch.tensor(1.0)).sample().add(1e-4)

    @cached_property
    def target(self) -> TableLM:
        return TableLM(self.laws(0) / self.laws(0).sum(-1, keepdim=True))

    @cached_property
    def draft(self) -> TableLM:
        return TableLM(self.laws(1) / self.laws(1).sum(-1, keepdim=True))

    def run(
        self, name: str, drafter: TableLM | None = None, again: int = 0, **options: Any
    ) -> tuple[TokenTree, Verdict]:
        """One iteration of a method; with equal `again` the random numbers are the same."""
        method = make(name, **options)
        prefix = prefix_of([[0]] * ROWS, budget=32, entries=len(method.kept))
        warp = Warper.of([SamplingParams()] * ROWS, self.vocab, torch.device("cpu")).at(prefix)
        noise = Noise(torch.arange(ROWS) + ROWS * again, prefix.num_new)
        tree = method.draft(drafter or self.draft, prefix, warp, noise)
        return tree, method.verify(tree, self.target.forward(tree), warp, noise)

    def mtad(
        self, threshold: float, name: str = "mtad", **options: Any
    ) -> tuple[TokenTree, Verdict]:
        shape = {"num_draft_tokens": self.depth, "beam_width": self.width}
        return self.run(name, accept_threshold=threshold, **{**shape, **options})


worlds = st.builds(
    World,
    vocab=st.integers(2, 6),
    depth=st.integers(1, 4),
    width=st.integers(1, 5),
    flatness=st.sampled_from([0.3, 1.0, 4.0]),
    seed=st.integers(0, 10_000),
)
thresholds = st.sampled_from([0.05, 0.3, 0.5, 0.9, 1.0, 1.5])
beam_kinds = st.sampled_from(["sample", "sample_with_replacement", "search"])
quick = settings(max_examples=10, deadline=None, derandomize=True, database=None)
SLACK = 1e-4


def joint_along(lm: TableLM, tree: TokenTree) -> torch.Tensor:
    """log-probability of every node's path, added up token by token in float64; (B, N)."""
    logs = lm.forward(tree).double()
    total = torch.zeros(tree.tokens.shape, dtype=torch.float64)
    for node in range(1, tree.num_nodes):
        parent = tree.parents[:, node]
        rows = torch.arange(ROWS)
        step = logs[rows, parent, tree.tokens[:, node]]
        total[:, node] = total[rows, parent] + torch.where(tree.alive[:, node], step, 0.0)
    return total


def log_ratios(world: World, tree: TokenTree) -> torch.Tensor:
    ratio = joint_along(world.target, tree) - joint_along(world.draft, tree)
    return ratio.masked_fill(~tree.alive, -math.inf)


@pytest.mark.slow
@quick
@given(worlds, thresholds, beam_kinds)
def test_mtad_takes_the_longest_passing_prefix(world: World, threshold: float, beam: str) -> None:
    """I1 and I2: the prefix passes, and no longer one does."""
    tree, verdict = world.mtad(threshold, beam=beam)
    ratio, bar = log_ratios(world, tree), math.log(threshold)
    accepted = verdict.num_accepted
    at = ratio.gather(1, accepted[:, None])[:, 0]
    assert (at[accepted > 0] >= bar - SLACK).all()
    longer = torch.arange(tree.num_nodes) > accepted[:, None]
    assert (ratio[longer] < bar + SLACK).all()


@pytest.mark.slow
@quick
@given(worlds, st.sampled_from([0.05, 0.3, 0.5, 0.9]))
def test_mtad_bounds_the_perplexity_of_a_block(world: World, threshold: float) -> None:
    """PPL_p(block) <= τ^(-1/η) · PPL_q(block)."""
    tree, verdict = world.mtad(threshold)
    eta = verdict.num_accepted
    some = eta > 0
    ppl = [
        (-joint_along(lm, tree).gather(1, eta[:, None])[:, 0] / eta.clamp(min=1)).exp()
        for lm in (world.target, world.draft)
    ]
    bound = threshold ** (-1 / eta.clamp(min=1).double()) * ppl[1]
    assert (ppl[0][some] <= bound[some] * (1 + SLACK)).all()


@pytest.mark.slow
@quick
@given(worlds, st.sampled_from([0.1, 0.5, 0.9]))
def test_a_fully_accepted_best_block_is_near_the_targets_best(
    world: World, threshold: float
) -> None:
    """I3: p(y) / p(d) <= (1/τ) p(y) / q(y), d the most likely block of q and y that of p."""
    depth = min(world.depth, 3)
    exact = {"beam": "search", "num_draft_tokens": depth, "beam_width": world.vocab**depth}
    tree, verdict = world.mtad(threshold, **exact)
    best, _ = world.run(
        "mmtad", world.target, **{**exact, "accept_threshold": 0.0}
    )  # its first leaf ends the target's best block
    leaf = best.last_level.start
    p_y = joint_along(world.target, best)[:, leaf]
    q_y = joint_along(world.draft, best)[:, leaf]
    p_d = joint_along(world.target, tree)[:, -1]
    full = verdict.num_accepted == depth
    assert (p_y >= p_d - SLACK).all()
    assert ((p_y - p_d)[full] <= (-math.log(threshold) + p_y - q_y)[full] + SLACK).all()


@pytest.mark.slow
@quick
@given(worlds, beam_kinds, st.sampled_from(["mtad", "mmtad"]))
def test_a_larger_threshold_never_accepts_more(world: World, beam: str, name: str) -> None:
    """I4, on the same drafts."""
    lengths = [
        world.mtad(t, name=name, beam=beam)[1].num_accepted for t in (0.0, 0.2, 0.6, 1.0, 3.0)
    ]
    lengths.append(world.mtad(math.inf, name=name, beam=beam)[1].num_accepted)
    for looser, stricter in pairwise(lengths):
        assert (stricter <= looser).all()
    assert (lengths[0] == world.depth).all()
    assert (lengths[-1] == 0).all()


@pytest.mark.slow
@quick
@given(worlds, thresholds)
def test_one_beam_and_one_token_test_the_token_ratio(world: World, threshold: float) -> None:
    """I5."""
    tree, verdict = world.mtad(threshold, num_draft_tokens=1, beam_width=1)
    rows, token = torch.arange(ROWS), tree.tokens[:, 1]
    p, q = (lm.laws[rows, 0, token] for lm in (world.target, world.draft))
    clear = (p / q - threshold).abs() > SLACK
    assert torch.equal((p / q >= threshold)[clear], (verdict.num_accepted == 1)[clear])


@pytest.mark.slow
@quick
@given(worlds, thresholds, beam_kinds)
def test_star_never_stops_before_mtad(world: World, threshold: float, beam: str) -> None:
    tree, single = world.mtad(threshold, beam=beam)
    forest, multi = world.mtad(threshold, name="mmtad", beam=beam, rule="star")
    assert (multi.num_accepted >= single.num_accepted).all()
    same = (multi.num_accepted == single.num_accepted) & (single.num_accepted > 0)
    place = (single.num_accepted - 1).clamp(min=0)[:, None]
    chosen = joint_along(world.target, forest).gather(1, multi.path.gather(1, place))
    committed = joint_along(world.target, tree).gather(1, single.path.gather(1, place))
    assert (chosen[same] >= committed[same] - SLACK).all()


@pytest.mark.slow
@quick
@given(worlds, thresholds, beam_kinds)
def test_max_is_the_strictest_rule(world: World, threshold: float, beam: str) -> None:
    depth = {
        rule: world.mtad(threshold, name="mmtad", beam=beam, rule=rule)[1].num_accepted
        for rule in ("own", "max", "star")
    }
    assert (depth["max"] <= depth["own"]).all()
    assert (depth["max"] <= depth["star"]).all()


@pytest.mark.slow
@quick
@given(worlds, thresholds, beam_kinds, st.sampled_from(["star", "own", "max"]))
def test_mmtad_of_one_beam_is_mtad(world: World, threshold: float, beam: str, rule: str) -> None:
    tree, one = world.mtad(threshold, beam=beam, beam_width=1)
    forest, many = world.mtad(threshold, name="mmtad", beam=beam, beam_width=1, rule=rule)
    assert torch.equal(tree.tokens, forest.tokens)
    assert torch.equal(one.num_accepted, many.num_accepted)
    assert torch.equal(one.next_token, many.next_token)


@quick
@given(worlds, beam_kinds)
def test_equal_laws_accept_everything(world: World, beam: str) -> None:
    """The same model as draft and target: every ratio is 1."""
    for name in ("mtad", "mmtad"):
        _, verdict = world.run(
            name,
            world.target,
            num_draft_tokens=world.depth,
            beam_width=world.width,
            accept_threshold=0.999,
            beam=beam,
        )
        assert (verdict.num_accepted == world.depth).all()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("speculative_sampling", {"num_draft_tokens": 3}),
        ("block_verification", {"num_draft_tokens": 3}),
        ("spectr", {"num_drafts": 3, "num_draft_tokens": 3}),
        ("gbv", {"num_paths": 3, "num_draft_tokens": 3}),
        ("specinfer", {"k_config": (2, 2, 1)}),
        ("mcss", {"k_config": (2, 2, 1)}),
        ("mcss", {"k_config": (2, 2, 1), "replacement": "with"}),
    ],
)
@settings(quick, max_examples=5)
@given(worlds)
def test_equal_laws_reject_nothing(name: str, options: dict[str, Any], world: World) -> None:
    _, verdict = world.run(name, world.target, **options)
    assert (verdict.num_accepted == 3).all()


@pytest.mark.slow
@settings(quick, max_examples=5)
@given(worlds)
def test_speculative_acceptance_is_one_minus_total_variation(world: World) -> None:
    """Over all rows, the share of accepted first tokens is the mean of Σ min(p, q)."""
    overlap = torch.minimum(world.target.laws[:, 0], world.draft.laws[:, 0]).sum(1).double()
    repeats = 20
    runs = [
        world.run("speculative_sampling", again=i, num_draft_tokens=1)[1] for i in range(repeats)
    ]
    hits = sum(int(verdict.num_accepted.sum()) for verdict in runs)
    spread = (repeats * float((overlap * (1 - overlap)).sum())) ** 0.5
    assert abs(hits - repeats * float(overlap.sum())) <= 5 * spread + 1e-6

"""What drafts are expected to bring: numbers known by hand."""

from __future__ import annotations

import pytest

from mtad.api.costs import Costs, Curve, tokens_by_length
from mtad.api.paying import Prospect, chains
from mtad.distill.acceptance import Acceptance
from mtad.methods.specinfer import SpecInfer


def test_a_chain_brings_its_tokens_over_its_seconds() -> None:
    prospect = chains(0.1, (1.0, 1.0, 1.1, 1.2))
    tokens = Acceptance((0.5, 0.5, 0.5), (1.5, 1.75, 1.875)).tokens
    one, two, three = prospect.offers(tokens)
    assert one.speed_up == pytest.approx(1.5 / 1.1)
    assert two.speed_up == pytest.approx(1.75 / 1.3)
    assert three.speed_up == pytest.approx(1.875 / 1.5)
    assert prospect.best(tokens) == one
    assert prospect.best([1.0, 1.9, 2.71, 3.44]).shape.length == 3
    assert len(prospect.offers(tokens[:2])) == 1, "of longer ones nothing is known"


def test_a_draft_pays_from_its_break_even_on() -> None:
    prospect = chains(0.1, (1.0, 1.0, 1.1, 1.2))
    assert prospect.break_even == pytest.approx(0.1)
    assert prospect.best_at(0.1).speed_up == pytest.approx(1.0)
    assert chains(1.2, (1.0, 1.0, 1.0)).break_even is None


def test_where_the_second_token_is_dear_longer_drafts_pay_first() -> None:
    prospect = chains(0.001, (1.0, 1.8, 1.8, 1.8, 1.8))
    assert prospect.best_at(prospect.break_even or 0).shape.length == 4
    assert prospect.break_even is not None and prospect.break_even < 0.8


def test_a_tree_costs_its_levels_and_all_its_nodes() -> None:
    costs = Costs(Curve((1, 9), (1.0, 1.8)), Curve((1, 9), (0.1, 0.1)))
    prospect = Prospect.of(costs, SpecInfer(k_config=(2, 3)), 100)
    one, two = prospect.offers(tokens_by_length([0.5, 0.5]))
    assert (one.tokens, one.ratio) == (1.5, pytest.approx(0.1 + 1.2))
    assert (two.tokens, two.ratio) == (1.75, pytest.approx(0.2 + 1.8))

"""Costs and shapes: numbers known by hand."""

from __future__ import annotations

import pytest
import torch
from support.guarded import Meter
from support.tiny import PROMPTS, VOCAB, similar, tiny_model
from support.toys import make, requests_of

from mtad.api.costs import PLAIN, Costs, Curve, Shape, shapes_of, tokens_by_length
from mtad.api.measuring import costs_of, star
from mtad.engine.session import Session
from mtad.methods.mtad import MTAD
from mtad.methods.speculative_sampling import SpeculativeSampling


def test_expected_tokens_by_length() -> None:
    assert tokens_by_length([0.5, 0.5, 1.0]) == [1.0, 1.5, 1.75, 2.0]


def test_a_curve_is_interpolated_and_goes_on_as_it_did() -> None:
    curve = Curve((1, 3, 5), (1.0, 2.0, 6.0))
    assert [curve(n) for n in (1, 2, 3, 4, 5, 7)] == [1.0, 1.5, 2.0, 4.0, 6.0, 10.0]


def test_fewer_tokens_are_never_dearer() -> None:
    curve = Curve((1, 2, 9), (1.0, 1.4, 1.2))
    assert curve(2) == 1.4 == curve(9) == curve(40)


@pytest.mark.parametrize(
    ("num_tokens", "seconds"), [((1,), (1.0,)), ((2, 1), (1.0, 1.0)), ((1, 2), (0.0, 1.0))]
)
def test_what_is_no_curve_is_refused(num_tokens, seconds) -> None:
    with pytest.raises(ValueError, match="a curve"):
        Curve(num_tokens, seconds)


def test_an_iteration_costs_its_levels_and_one_forward_of_the_target() -> None:
    costs = Costs(Curve((1, 9), (1.0, 1.8)), Curve((1, 9), (0.1, 0.9)), reads_text=True)
    assert costs.of(Shape(PLAIN, (), 1), 1) == 1.0
    assert costs.of(Shape(PLAIN, (1, 1), 3), 1) == pytest.approx(0.2 + 1.2)
    assert costs.of(Shape(PLAIN, (1, 2), 4), 2) == pytest.approx(0.2 + 0.4 + 1.7)
    assert costs.of_catching_up(5, 1) == pytest.approx(0.5)
    assert Costs(costs.target).of(Shape(PLAIN, (1, 1), 3), 1) == pytest.approx(1.2)
    assert Costs(costs.target, costs.draft).of_catching_up(5, 1) == 0.0


@pytest.mark.parametrize(
    ("name", "options", "shapes"),
    [
        ("speculative_sampling", {"num_draft_tokens": 1}, [((1,), 2)]),
        (
            "speculative_sampling",
            {"num_draft_tokens": 5},
            [((1,) * n, n + 1) for n in (1, 2, 3, 4, 5)],
        ),
        ("specinfer", {"k_config": (2, 3)}, [((1,), 3), ((1, 2), 9)]),
        ("spectr", {"num_drafts": 2, "num_draft_tokens": 2}, [((1,), 3), ((1, 2), 5)]),
        ("mtad", {"num_draft_tokens": 2, "beam_width": 3}, [((1,), 2), ((1, 3), 3)]),
        ("mmtad", {"num_draft_tokens": 2, "beam_width": 3}, [((1,), 4), ((1, 3), 7)]),
        ("prompt_lookup", {"num_draft_tokens": 2}, [((1,), 2), ((1, 1), 3)]),
    ],
)
def test_shapes_of_methods(name: str, options: dict, shapes: list) -> None:
    method = make(name, **options)
    plain, *drafts = shapes_of(method, VOCAB)
    assert plain == Shape(PLAIN, (), 1)
    assert [(shape.fed, shape.num_nodes) for shape in drafts] == shapes
    assert drafts[-1].method == method and drafts[-1].length == len(shapes[-1][0])


@pytest.mark.parametrize(
    ("name", "options", "widths"),
    [
        ("specinfer", {"k_config": (4, 2)}, [(1,), (1, 1), (2,), (2, 1), (4,), (4, 2)]),
        ("spectr", {"num_drafts": 3, "num_draft_tokens": 2}, [(1,), (1, 1), (3,), (3, 1)]),
        ("gbv", {"num_paths": 2, "num_draft_tokens": 2}, [(1,), (1, 1), (2,), (2, 1)]),
        ("speculative_sampling", {"num_draft_tokens": 2}, [(1,), (1, 1)]),
    ],
)
def test_narrower_trees_are_half_as_wide(name: str, options: dict, widths: list) -> None:
    method = make(name, **options)
    plain, *drafts = shapes_of(method, VOCAB, has_narrower=True)
    assert plain.widths == () and sorted(shape.widths for shape in drafts) == widths
    assert [shape.num_nodes for shape in drafts] == sorted(shape.num_nodes for shape in drafts)
    assert all(s.method.num_nodes(VOCAB, 9) == s.num_nodes for s in drafts)
    assert drafts[-1].method == method


def test_there_are_few_shapes_of_long_drafts() -> None:
    lengths = [s.length for s in shapes_of(SpeculativeSampling(num_draft_tokens=20), VOCAB)]
    assert lengths == [0, 1, 2, 3, 4, 6, 8, 12, 16, 20]
    assert shapes_of(MTAD(num_draft_tokens=8), VOCAB)[-1].method == MTAD(num_draft_tokens=8)


@pytest.mark.parametrize("num_tokens", [5, 33])
def test_measured_costs_are_what_the_clock_says(monkeypatch, num_tokens: int) -> None:
    target = tiny_model("llama")
    meter = Meter(monkeypatch, draft=0.25, node=0.125)
    with torch.inference_mode():
        request = requests_of(PROMPTS[:1], max_new_tokens=1)[0]
        method = SpeculativeSampling()
        session = Session(target, similar(target), method, [request], VOCAB)
        costs = costs_of(session, num_tokens, meter)
    assert costs.target.num_tokens == ((1, 2, 3, 5, 9) if num_tokens < 9 else (1, 2, 3, 5, 9, 33))
    assert costs.target.seconds == tuple(1 + 0.125 * (n - 1) for n in costs.target.num_tokens)
    assert costs.draft == Curve((1, 9), (0.25, 0.25)) and costs.reads_text
    assert star(session.prefix.root(), 9).num_nodes == 9
    assert session.rows == [0] and session.lengths == [len(PROMPTS[0])], "nothing was committed"

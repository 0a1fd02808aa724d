"""Where acceptance rules lie between bias and rejection: by enumeration, and over real texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.command import cli
from support.lossy_laws import cactus_bias, mixture, raised, total_variation
from support.toys import H_DRAFT, H_TARGET, make

from mtad.api.pair import ModelPair
from mtad.bench.files import FRONT, RECIPE, read_json, write_json
from mtad.bench.front.measure import measure
from mtad.bench.front.position import Positions
from mtad.bench.recipe import parse
from mtad.bench.report.front import front_plot, front_table
from mtad.cli.bench import running
from mtad.sampling.params import SamplingParams

LAWS = [*zip(H_TARGET, H_DRAFT, strict=True)]


def places(eos: int = -1, **sampling: Any) -> Positions:
    p, q = (torch.tensor(table).log() for table in (H_TARGET, H_DRAFT))
    return Positions(p, q, torch.full((len(p), 1), eos), SamplingParams(**sampling))


def found(name: str, seen: Positions, **options: Any) -> list[list[float]]:
    bias, rejection = seen.place(make(name, num_draft_tokens=1, **options))
    return [bias.tolist(), rejection.tolist()]


def test_a_lossless_rule_rejects_the_total_variation() -> None:
    seen = places()
    wanted = [total_variation(p, q) for p, q in LAWS]
    assert seen.distance.tolist() == pytest.approx(wanted, abs=1e-6)
    bias, rejection = found("speculative_sampling", seen)
    assert bias == pytest.approx([0.0] * 5, abs=1e-6)
    assert rejection == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("step", ["quadratic", "exact"])
def test_cactus(step: str) -> None:
    """What is drawn after a rejection depends on the rejected token."""
    bias, rejection = found("cactus", places(), delta=0.05, step=step)
    kept = [sum(min(y, raised(x, 0.05, step)) for x, y in zip(p, q, strict=True)) for p, q in LAWS]
    assert bias == pytest.approx([cactus_bias(p, q, 0.05, step) for p, q in LAWS], abs=1e-5)
    assert rejection == pytest.approx([1 - one for one in kept], abs=1e-5)


@pytest.mark.parametrize(("rule", "a"), [("token", 0.45), ("opt", 0.3), ("ensemble", 0.3)])
def test_cascades(rule: str, a: float) -> None:
    laws = [mixture(rule, a, p, q) for p, q in LAWS]
    bias, rejection = found("cascade", places(), rule=rule, threshold=a)
    wanted = [total_variation(pi, p) for pi, (p, _) in zip(laws, LAWS, strict=True)]
    assert bias == pytest.approx(wanted, abs=1e-6)
    wanted = [total_variation(pi, q) for pi, (_, q) in zip(laws, LAWS, strict=True)]
    assert rejection == pytest.approx(wanted, abs=1e-6)


def test_mtad_draws_from_the_target_after_a_rejection() -> None:
    """A test without a coin: of each token all of its mass is kept, or none."""
    bias, rejection = found("mtad", places(), accept_threshold=0.7)
    for i, (p, q) in enumerate(LAWS):
        kept = [y if x / y >= 0.7 else 0.0 for x, y in zip(p, q, strict=True)]
        law = [k + (1 - sum(kept)) * x for k, x in zip(kept, p, strict=True)]
        assert bias[i] == pytest.approx(total_variation(law, p), abs=1e-6)
        assert rejection[i] == pytest.approx(1 - sum(kept), abs=1e-6)


def test_an_end_of_the_text_is_one_at_its_place() -> None:
    """Margin keeps no end without the coin; token 1 is near in contexts 2 and 4."""
    with_end, without = (found("margin", places(eos), max_gap=1.0)[0] for eos in (1, -1))
    p, q = LAWS[4]
    assert without[4] == pytest.approx(q[1] - p[1], abs=1e-6)
    assert with_end[4] == pytest.approx(0, abs=1e-6)


def test_the_target_is_truncated() -> None:
    seen = places(top_k=2)
    kept = [sorted(p, reverse=True)[:2] for p, _ in LAWS]
    wanted = [sorted(x / sum(two) for x in two) for two in kept[1:3]]
    assert [sorted(row)[-2:] for row in seen.target[1:3].tolist()] == [
        pytest.approx(two, abs=1e-6) for two in wanted
    ]


# --- over texts --------------------------------------------------------------------------------

TABLE = {
    "name": "front",
    "pair": {"dtype": "float32"},
    "data": "bundled",
    "reference": "autoregressive",
    "run": {"num_test": 2, "max_new_tokens": 8, "timed_seeds": 0},
    "sampling": {"temperature": 1.0, "top_k": 10},
    "tasks": {"spider": {}},
    "runs": [
        {"method": "autoregressive"},
        {"method": "speculative_sampling"},
        {"method": "cactus"},
        {"method": "mtad"},
        {"method": "fly"},
        {"name": "cooler", "method": "mtad", "sampling": {"temperature": 0.5}},
    ],
}


@pytest.mark.slow
def test_a_folder_in_one_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, demo_pair: ModelPair
) -> None:
    write_json(tmp_path / RECIPE, TABLE)
    monkeypatch.setattr(running, "load", lambda recipe: demo_pair)
    done = cli("bench", "front", tmp_path, "--items", "2", "--max-new-tokens", "12")
    assert done.exit_code == 0
    front = read_json(tmp_path / FRONT)
    assert front["num_texts"] == 2 and front["num_positions"] > 10
    assert {*front["runs"]} == {"cactus", "mtad"}
    assert front["left_out"] == {
        "autoregressive": "no draft token is judged",
        "speculative_sampling": "lossless",
        "fly": "lossless where one token is drafted",
        "cooler": "other sampling settings than autoregressive",
    }
    least = front["optimum"]["value"]
    sums = {
        run: row["bias"]["value"] + row["rejection"]["value"] for run, row in front["runs"].items()
    }
    assert 0 < least < 1 and sums["cactus"] == pytest.approx(least, abs=1e-5)
    assert front["runs"]["mtad"]["distance"]["value"] == pytest.approx(
        sums["mtad"] - least, abs=1e-5
    )
    assert sums["mtad"] > least + 1e-4
    table, plot = front_table(front), front_plot(front)
    assert [row[0] for row in table.rows][2:] == ["cactus", "mtad"]
    assert "fly (lossless where one token is drafted)" in table.note
    assert plot is not None and plot.png.startswith(b"\x89PNG")


def test_a_report_without_it_says_nothing_of_it() -> None:
    assert front_table({}).rows == [] and front_plot({}) is None


def test_a_reference_that_does_not_sample_is_refused(demo_pair: ModelPair) -> None:
    greedy = parse(TABLE | {"sampling": {"temperature": 0.0}})
    with pytest.raises(ValueError, match="has temperature 0, where laws are single tokens"):
        measure(greedy, demo_pair, {}, {}, 8, lambda *given: None)

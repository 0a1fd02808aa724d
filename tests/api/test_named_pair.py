"""Pairs by name: the choice, who takes it, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from support.command import cli, refused, without_loading
from support.heads import random_head
from support.named_pair import define
from support.saved_pair import folder

import mtad
from mtad import methods, testing
from mtad.bench.conditions import conditions
from mtad.bench.overlay import laid_over
from mtad.bench.plan import PairSpec
from mtad.bench.recipe import parse, read_recipe
from mtad.bench.speed import limits, measure, models
from mtad.bench.speed.baseline import PLAIN
from mtad.bench.speed.plan import SpeedPlan
from mtad.bench.speed.prompts import prompts_for
from mtad.bench.speed.rows import read_speed_rows
from mtad.bench.speed.runs import Sampling
from mtad.errors import CheckpointError
from mtad.model.head_files import save_head
from mtad.model.loading import load_models
from mtad.pairs import PAIRS, NamedPair, PairName, home
from mtad.server.api.service import served_names
from mtad.server.settings import ServerSettings, read_settings
from mtad.testing import Shape, Widened, widened_pair

_RECIPES = Path(__file__).parents[2] / "recipes" / "smollm2"
RECIPE: dict[str, Any] = {"tasks": {"spider": {}}, "runs": [{"method": "autoregressive"}]}
GREEDY: dict[str, Any] = {"temperature": 0, "max_new_tokens": 16, "ignore_eos": True}


@pytest.fixture(scope="module")
def draft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head for the tiny target."""
    place = tmp_path_factory.mktemp("head")
    target = load_models(folder() / "target", target_weights="plain").target
    save_head(random_head(target), place, target)
    return place


@pytest.fixture
def pair(draft: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NamedPair:
    """A tiny pair under the name smollm2, its target there already."""
    return define(monkeypatch, tmp_path, draft, bundled=folder() / "target")


def test_the_names_of_the_settings_are_those_of_the_pairs() -> None:
    assert get_args(PairName) == tuple(PAIRS)


def test_the_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MTAD_HOME", raising=False)
    assert home() == Path.home() / ".cache" / "mtad"
    monkeypatch.setenv("MTAD_HOME", str(tmp_path))
    assert PAIRS["smollm2"].target == tmp_path / "models" / "SmolLM2-135M-Instruct"
    with pytest.raises(CheckpointError, match="run: mtad fetch smollm2"):
        mtad.load_pair("smollm2")


@pytest.mark.slow
def test_a_pair_is_loaded_by_its_name(pair: NamedPair) -> None:
    loaded = mtad.load_pair("smollm2", dtype="float32")
    texts = [
        loaded.generate("the cat", method, **GREEDY)[0].token_ids
        for method in ("autoregressive", "speculative_sampling")
    ]
    assert texts[0] == texts[1]
    with pytest.raises(ValueError, match="'smollm2' has its own draft"):
        mtad.load_pair("smollm2", draft="x")
    with pytest.raises(ValueError, match="did you mean 'smollm2'"):
        mtad.load_pair("smolm2")


@pytest.mark.slow
def test_every_command_takes_the_name(pair: NamedPair, monkeypatch: pytest.MonkeyPatch) -> None:
    loads = without_loading(monkeypatch)
    assert cli("generate", "x", "--pair", "smollm2", "--max-new-tokens", "1").exit_code == 0
    assert cli("chat", "--pair", "smollm2", stdin="/quit\n").exit_code == 0
    assert [load["name"] for load in loads] == ["smollm2", "smollm2"]
    for command in (["generate", "x"], ["chat"], ["serve"]):
        said = refused(*command, "--pair", "smollm2", "--target-model", "m")
        assert "pair is 'smollm2', which has a target and a draft of its own" in said
        assert "target_model is 'm'; leave out one of the two" in said
    assert "smolm is not one of" in refused("generate", "--pair", "smolm").replace("'", "")


def test_a_servers_file_takes_the_name(tmp_path: Path) -> None:
    path = tmp_path / "server.toml"
    path.write_text('[models]\npair = "smollm2"\n')
    settings = ServerSettings(**read_settings(path))
    assert served_names(settings) == ("smollm2",) and settings.has_draft
    path.write_text('[models]\npair = "smollm2"\ndraft_model = "d"\n')
    with pytest.raises(ValueError, match="draft_model is 'd'; leave out one of the two"):
        ServerSettings(**read_settings(path))


def test_recipes_take_the_name(pair: NamedPair) -> None:
    recipe = parse(RECIPE | {"pair": "smollm2"})
    assert recipe.pair == PairSpec("smollm2")
    here = conditions(mtad.load_pair("smollm2"), recipe.pair, {})
    assert here["target"]["name"] == here["draft"]["name"] == "smollm2"
    own = RECIPE | {"pair": {"target": "t", "draft": "d", "dtype": "float32"}}
    laid = laid_over(own, {"pair": {"target": "smollm2"}})
    assert parse(laid).pair == PairSpec("smollm2", dtype="float32")
    laid = laid_over(RECIPE | {"pair": "smollm2"}, {"pair": {"target_weights": "int8"}})
    assert parse(laid).pair == PairSpec("smollm2", target_weights="int8")
    laid = laid_over(RECIPE | {"pair": "smollm2"}, {"pair": {"target": "demo"}})
    assert parse(laid).pair == PairSpec("demo")
    for over in ({}, {"pair": {"target": None}}):
        with pytest.raises(ValueError, match="did you mean 'smollm2'"):
            parse(laid_over(RECIPE | {"pair": "smolm2"}, over))
    with pytest.raises(ValueError, match=r"leave out pair\.draft"):
        parse(RECIPE | {"pair": {"target": "smollm2", "draft": "d"}})


def test_bench_refuses_a_name_beside_models(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text("")
    flags = ["--pair", "smollm2", "--target-model", "m"]
    assert "leave out one of the two" in refused("bench", "run", str(tmp_path / "r.toml"), *flags)
    assert "no pair called 'x'" in refused("bench", "frontier", "--pair", "x")


@pytest.mark.slow
def test_the_speed_of_a_pair_with_a_head(
    pair: NamedPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(limits.MEMORY_BYTES, "cpu", 2**22)
    monkeypatch.setitem(limits.MATRIX_SIZE, "cpu", 64)
    monkeypatch.setattr(limits, "NUM_TRIES", 1)
    monkeypatch.setattr(measure, "_record_at_once", lambda pair: None)
    method = mtad.SpeculativeSampling(num_draft_tokens=3)
    plan = SpeedPlan(
        PairSpec("smollm2", dtype="float32"),
        (("speculative_sampling", method),),
        num_prompts=1,
        repeats=1,
        sampling=Sampling(max_new_tokens=6, ignore_eos=True),
    )
    measure.measure(plan, tmp_path / "speed", ["the cat sat"])
    ours, theirs = read_speed_rows(tmp_path / "speed")
    assert theirs.run == PLAIN, "which is not assisted by a head"
    assert ours.measured is not None and ours.measured.observed is not None
    counts = {f.model: f.count for f in ours.measured.observed.forwards if f.num_tokens == 1}
    assert counts["draft"] == 3 * ours.measured.observed.num_iterations
    cost = models.measured_cost(
        mtad.load_pair("smollm2", target_weights="plain", draft_weights="plain")
    ).models["draft"]
    assert cost.kv_bytes == 0 and 0 < cost.matrix_parameters < cost.num_parameters


def test_speed_is_asked_what_suits_the_pair() -> None:
    assert prompts_for("smollm2-1b", 3) == prompts_for("smollm2", 3) != prompts_for("demo", 3)
    assert all(prompt[0]["role"] in ("system", "user") for prompt in prompts_for("smollm2", 6))


@pytest.mark.slow
def test_a_widened_pair_with_a_head_is_the_pair(
    pair: NamedPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = Widened("smollm2", Shape(48, 80, 3), Shape(48, 96, 1))
    monkeypatch.setitem(testing.WIDENED, "tiny", shape)
    target, head = widened_pair("tiny", dtype=torch.float32)
    small = mtad.load_pair("smollm2", dtype="float32")
    assert head.config.hidden_size == 48 and head.config.intermediate_size == 96
    wide = mtad.ModelPair(target, head, small.tokenizer, trust_vocabulary=True)
    options = {"seed": 3, "max_new_tokens": 40, "ignore_eos": True}
    method = mtad.SpeculativeSampling(num_draft_tokens=3)
    wanted, got = (one.generate("the cat", method, **options)[0] for one in (small, wide))
    assert got.blocks == wanted.blocks and wanted.stats.num_accepted_draft_tokens > 0


_OWN = {"json_extraction", "closed_book", "table_sql"}


@pytest.mark.parametrize(
    ("name", "asked"),
    {
        "evaluate": _OWN,
        "quality": _OWN,
        "spec_bench": {"spec_bench"},
        "spec_bench_options": {"spec_bench"},
        "completeness": {"spider", "gsm8k", "human_eval", "perplexity"},
    }.items(),
)
def test_the_recipes_of_the_pair_are_sound(name: str, asked: set[str]) -> None:
    recipe = read_recipe(_RECIPES / f"{name}.toml")
    assert recipe.pair == PairSpec("smollm2")
    assert {*recipe.tasks} == asked


def test_quality_and_speed_have_the_same_rows() -> None:
    quality, speed = (read_recipe(_RECIPES / f"{n}.toml") for n in ("quality", "spec_bench"))
    every = {run.points[0].method.name for run in speed.runs}
    assert every == {*methods.own_names()}
    assert {run.name for run in speed.runs} <= {run.name for run in quality.runs}

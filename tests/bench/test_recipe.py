"""Recipes: what they say, and what is refused with a message that helps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import mtad
from mtad.bench.jobs import jobs
from mtad.bench.overlay import laid_over
from mtad.bench.plan import PairSpec, Recipe
from mtad.bench.recipe import parse, read_recipe
from mtad.bench.split import split
from mtad.tasks import BUNDLED, Item
from mtad.tasks.spider import Spider

RECIPES = Path(__file__).parents[2] / "benchmarks" / "recipes"


def table(**changes: Any) -> dict[str, Any]:
    """A small recipe."""
    base: dict[str, Any] = {
        "tasks": {"spider": {}},
        "run": {"num_dev": 4},
        "runs": [{"method": "autoregressive"}],
    }
    return base | changes


@pytest.mark.parametrize("path", sorted(RECIPES.rglob("*.toml")), ids=lambda p: p.stem)
def test_every_recipe_of_the_repository_is_valid(path: Path) -> None:
    recipe = read_recipe(path)
    assert recipe.name == path.stem
    assert recipe.reference in [run.name for run in recipe.runs]


def test_the_paper_differs_from_the_embedded_recipe_in_pair_and_data() -> None:
    embedded, paper = (read_recipe(RECIPES / f"{n}.toml") for n in ("embedded", "paper"))
    assert paper.runs == embedded.runs
    assert [*paper.tasks] == [*embedded.tasks]
    two_lines = {"pair": paper.table["pair"], "data": paper.table["data"]}
    llama = read_recipe(RECIPES / "embedded.toml", two_lines)
    assert llama.pair == PairSpec("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.2-1B", "bfloat16")
    assert llama.tasks["spider"].task.data == Path("~/mtad-data/spider").expanduser()


def test_the_paper_s_grid_of_mtad() -> None:
    run = next(r for r in read_recipe(RECIPES / "paper.toml").runs if r.name == "mtad")
    found = {
        (m.beam_width, m.num_draft_tokens, m.accept_threshold)
        for m in (point.method for point in run.points)
        if isinstance(m, mtad.MTAD)
    }
    assert found == {(w, k, t) for w in (4, 8) for k in (3, 4) for t in (0.1, 0.3, 0.5, 0.7, 0.9)}


def test_no_tuned_run_gets_more_settings_than_mtad() -> None:
    runs = {run.name: len(run.points) for run in read_recipe(RECIPES / "paper.toml").runs}
    assert max(runs.values()) == runs["mtad"] == 20


def test_a_grid_is_every_combination_laid_over_the_options() -> None:
    row = {
        "name": "m",
        "method": "mtad",
        "options": {"beam_width": 2},
        "grid": {"num_draft_tokens": [3, 4], "accept_threshold": [0, 0.5]},
    }
    run = parse(table(runs=[row])).runs[0]
    assert [point.label for point in run.points] == [
        "m [num_draft_tokens=3, accept_threshold=0]",
        "m [num_draft_tokens=3, accept_threshold=0.5]",
        "m [num_draft_tokens=4, accept_threshold=0]",
        "m [num_draft_tokens=4, accept_threshold=0.5]",
    ]
    assert run.points[1].method == mtad.MTAD(3, 2, 0.5)
    assert run.is_tuned
    assert run.choose == "quality"


def test_of_a_grid_all_combinations_may_be_reported() -> None:
    row = {"method": "mtad", "grid": {"accept_threshold": [0.1, 0.5]}, "choose": "all"}
    plain = {"method": "autoregressive", "choose": "all"}
    recipe = parse(table(run={}, runs=[row, plain]))
    assert [run.name for run in recipe.runs] == [
        "mtad [accept_threshold=0.1]",
        "mtad [accept_threshold=0.5]",
        "autoregressive",
    ]
    assert not any(run.is_tuned for run in recipe.runs)
    assert recipe.runs[1].points[0].method == mtad.MTAD(accept_threshold=0.5)
    alone = parse(table(runs=[row | {"grid": {"accept_threshold": [0.1]}}]))
    assert alone.runs[0].name == "mtad [accept_threshold=0.1]"


def test_a_grid_of_one_point_needs_no_choice() -> None:
    row = {"method": "speculative_sampling", "grid": {"num_draft_tokens": [3]}}
    run = parse(table(run={}, runs=[row])).runs[0]
    assert not run.is_tuned
    assert (run.points[0].label, run.choose) == ("speculative_sampling", "speed")


def test_a_run_at_further_temperatures_is_a_run_for_each() -> None:
    run = {"method": "autoregressive", "sampling": {"top_k": 5}, "temperatures": [0.5, 0]}
    found = parse(table(runs=[run | {"name": "plain"}, {"method": "mtad"}])).runs
    assert [(one.name, one.sampling.get("temperature")) for one in found] == [
        ("plain", None),
        ("plain, temperature 0.5", 0.5),
        ("plain, temperature 0", 0.0),
        ("mtad", None),
    ]
    assert all(one.sampling["top_k"] == 5 for one in found[:3])


def test_a_run_s_sampling_is_laid_over_the_common_one() -> None:
    row = {"method": "autoregressive", "sampling": {"temperature": 0.0}}
    run = parse(table(sampling={"temperature": 1.0, "top_k": 10}, runs=[row])).runs[0]
    assert run.sampling == {"temperature": 0.0, "top_k": 10}
    assert not run.is_random


def test_lists_become_the_tuples_of_a_method() -> None:
    row = {"method": "specinfer", "grid": {"k_config": [[2, 2], [4]]}}
    methods = [point.method for point in parse(table(runs=[row])).runs[0].points]
    assert methods == [mtad.SpecInfer((2, 2)), mtad.SpecInfer((4,))]


MTAD = {"method": "mtad"}
CHAIN = {"method": "speculative_sampling"}
GAMMAS = {"num_draft_tokens": [2, 3]}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (
            {"taks": {}},
            "the recipe has an unknown key 'taks' \\(did you mean 'tasks'\\?\\); known keys: ",
        ),
        (
            {"run": {"sedes": 3}},
            "run has an unknown key 'sedes' \\(did you mean 'seeds'\\?\\); known keys",
        ),
        ({"run": {"seeds": 0}}, "seeds is 0; it must be at least 1"),
        ({"run": {"seeds": "3"}}, "run.seeds is '3'; it must be an integer"),
        ({"run": {"time_limit_s": -1}}, "time_limit_s is -1.0; it must be at least 0"),
        ({"tasks": {}}, "known tasks: spider, human_eval, mt_bench, gsm8k"),
        ({"tasks": {"squad": {}}}, "there is no task 'squad'; known tasks: spider"),
        ({"tasks": {"human-eval": {}}}, "'human-eval' \\(did you mean 'human_eval'\\?\\)"),
        ({"tasks": {"MT-bench": {}}}, "'MT-bench' \\(did you mean 'mt_bench'\\?\\)"),
        ({"tasks": {"spider": {"mach": 1}}}, "unknown key 'mach' \\(did you mean 'match'\\?\\)"),
        ({"tasks": {"spider": {"match": "Author"}}}, "'Author' \\(did you mean 'authors'\\?\\)"),
        ({"tasks": {"spider": {"match": "lax"}}}, "tasks.spider.match is 'lax'"),
        ({"runs": []}, "no \\[\\[runs\\]\\]"),
        ({"runs": [{"name": "x"}]}, "has no method"),
        ({"runs": [{"method": "magic"}]}, "there is no method 'magic'"),
        ({"runs": [MTAD, MTAD]}, "runs share the name 'mtad'"),
        ({"runs": [MTAD | {"beam": 3}]}, "run 'mtad' has an unknown key 'beam'"),
        ({"runs": [MTAD | {"options": {"width": 3}}]}, "mtad has no option 'width'"),
        ({"runs": [MTAD | {"options": {"beam_width": True}}]}, "beam_width is True"),
        ({"runs": [MTAD | {"grid": {"beam_width": 4}}]}, "must be a list of values"),
        ({"runs": [MTAD | {"grid": {"beam_width": []}}]}, "must be a list of values"),
        (
            {"runs": [MTAD | {"options": {"beam_width": 2}, "grid": {"beam_width": [2, 4]}}]},
            "given twice",
        ),
        (
            {"runs": [MTAD | {"choose": "luck"}]},
            "choose is 'luck'; it must be one of quality, speed, all",
        ),
        ({"runs": [MTAD | {"choose": "Sped"}]}, "'Sped' \\(did you mean 'speed'\\?\\)"),
        ({"runs": [MTAD | {"temperatures": 0.5}]}, "run 'mtad': temperatures is 0.5; it must be"),
        ({"runs": [MTAD | {"temperatures": [-1.0]}]}, "temperature"),
        ({"runs": [MTAD | {"temperature": [0.5]}]}, "did you mean 'temperatures'"),
        ({"runs": [MTAD | {"models": "both"}]}, "models is 'both'; it must be one of pair, draft"),
        ({"runs": [MTAD | {"tasks": ["spyder"]}]}, "'spyder' \\(did you mean 'spider'\\?\\)"),
        ({"runs": [{"method": "mtda"}]}, "'mtda' \\(did you mean 'mtad'\\?\\)"),
        (
            {"runs": [MTAD], "reference": "mtat"},
            "'mtat' \\(did you mean 'mtad'\\?\\); it must be a",
        ),
        ({"runs": [MTAD | {"tasks": ["mt_bench"]}]}, "it must be one of spider"),
        ({"runs": [MTAD | {"sampling": {"top_q": 1}}]}, "unknown sampling option 'top_q'"),
        ({"runs": [MTAD | {"sampling": {"max_new_tokens": 9}}]}, "in \\[run\\] instead"),
        (
            {"run": {"num_dev": 4, "timed_seeds": 0}, "runs": [CHAIN | {"grid": GAMMAS}]},
            "set timed_seeds",
        ),
        ({"runs": [MTAD | {"grid": {"beam_width": [2, 2]}}]}, "each value may stand once"),
        ({"runs": [MTAD | {"tasks": []}]}, "at least one"),
        ({"tasks": {"spider": {"num_test": -5}}}, "tasks.spider.num_test is -5"),
        (
            {"tasks": {"spider": {"max_new_tokens": 0}}},
            "max_new_tokens is 0; it must be at least 1",
        ),
        ({"run": {}, "runs": [MTAD | {"grid": {"beam_width": [2, 4]}}]}, "set num_dev"),
        ({"reference": "beam"}, "reference is 'beam'; it must be a run: autoregressive"),
        ({"pair": "llama"}, "pair is 'llama'; it must be 'demo' or 'smollm2', or a table"),
        ({"pair": {"targt": "x"}}, "pair has an unknown key 'targt'"),
        ({"data": 3}, "data is 3; it must be a text"),
    ],
)
def test_mistakes_are_named(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse(table(**changes))


def test_a_file_that_is_not_toml_is_named(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text("name = \n")
    with pytest.raises(ValueError, match=r"r\.toml is not TOML"):
        read_recipe(path)


def test_a_recipe_lies_over_the_one_it_extends(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(
        '[run]\nseeds = 3\nnum_test = 5\n[tasks.spider]\n[[runs]]\nmethod = "autoregressive"\n'
    )
    (tmp_path / "b.toml").write_text('extends = "a.toml"\n[run]\nseeds = 4\n')
    recipe = read_recipe(tmp_path / "b.toml")
    assert (recipe.plan.seeds, recipe.plan.num_test, recipe.name) == (4, 5, "b")
    assert [run.name for run in recipe.runs] == ["autoregressive"]


def test_a_recipe_that_extends_itself_or_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('extends = "b.toml"\n')
    (tmp_path / "b.toml").write_text('extends = "a.toml"\n')
    with pytest.raises(ValueError, match="must be another recipe"):
        read_recipe(tmp_path / "a.toml")
    (tmp_path / "c.toml").write_text('extends = "d.toml"\n')
    with pytest.raises(ValueError, match=r"extends is 'd\.toml'"):
        read_recipe(tmp_path / "c.toml")


def test_overrides_reach_only_the_tasks_that_are_there() -> None:
    over = {
        "data": None,
        "pair": {"target": None, "dtype": "float32"},
        "tasks": {"spider": {"match": "authors"}, "human_eval": {"allow_code_execution": True}},
    }
    merged = laid_over(table(pair="demo"), over)
    assert merged["tasks"] == {"spider": {"match": "authors"}}
    assert parse(merged).pair == PairSpec(dtype="float32")
    assert "data" not in merged


def test_single_values_are_laid_over_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text(
        '[run]\nseeds = 3\nnum_test = 5\n[tasks.spider]\n[[runs]]\nmethod = "autoregressive"\n'
    )
    given = ["run.seeds=1", 'tasks.spider.match = "authors"', "sampling.top_p=0.9", 'name="b"']
    recipe = read_recipe(path, {"tasks": {"spider": {"match": "official"}}}, given)
    assert (recipe.plan.seeds, recipe.plan.num_test, recipe.name) == (1, 5, "b")
    assert recipe.tasks["spider"].task == Spider(BUNDLED / "spider", match="authors")
    assert recipe.runs[0].sampling == {"top_p": 0.9}


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (["run.seeds"], "--set run.seeds: expected KEY=VALUE, such as --set run.seeds=1"),
        (["run.=1"], "expected KEY=VALUE"),
        (["data=bundled"], "'bundled' is no value in TOML's form; texts stand in quotes"),
        (["run.seeds=1", "run.seeds=2"], "--set run.seeds=2: run.seeds is given twice"),
        (["run=1", "run.seeds=2"], "--set run.seeds=2: run.seeds is given twice"),
        (["run.seed=1"], "run has an unknown key 'seed'"),
        (["tasks.spyder.num_test=1"], "there is no task 'spyder' .did you mean 'spider'"),
    ],
)
def test_mistakes_in_single_values_are_named(
    tmp_path: Path, given: list[str], complaint: str
) -> None:
    path = tmp_path / "a.toml"
    path.write_text('[tasks.spider]\n[[runs]]\nmethod = "autoregressive"\n')
    with pytest.raises(ValueError, match=complaint):
        read_recipe(path, {}, given)


def test_data_is_bundled_or_a_folder_with_one_folder_per_task() -> None:
    assert parse(table()).tasks["spider"].task.data == BUNDLED / "spider"
    assert parse(table(data="x")).tasks["spider"].task.data == Path("x/spider")
    own = table(data="x", tasks={"spider": {"data": "~/s"}})
    assert parse(own).tasks["spider"].task.data == Path("~/s").expanduser()


# --- splits ----------------------------------------------------------------------------------


def items(num_groups: int, size: int) -> list[Item]:
    """Questions about databases."""
    return [Item(f"{g}-{i}", ("?",), group=f"g{g}") for g in range(num_groups) for i in range(size)]


def test_a_group_is_never_on_both_sides() -> None:
    parts = split(items(20, 7), num_dev=15, num_test=0)
    dev, test = ({item.group for item in part} for part in parts.values())
    assert not dev & test
    assert len(parts["dev"]) == 21  # the group that reaches 15 comes whole
    assert len(parts["test"]) == 20 * 7 - 21


def test_a_larger_test_keeps_the_items_of_a_smaller_one() -> None:
    small, large = (split(items(20, 7), 10, n)["test"] for n in (30, 60))
    assert large[:30] == small
    assert len(large) == 60


def test_the_order_of_the_file_does_not_matter() -> None:
    assert split(items(9, 3), 4, 8) == split(items(9, 3)[::-1], 4, 8)


def test_a_split_that_leaves_nothing_to_report_is_refused() -> None:
    with pytest.raises(ValueError, match="none are left to report"):
        split(items(2, 3), 6, 0)


def test_without_dev_items_all_are_for_the_test() -> None:
    parts = split(items(3, 2), 0, 0)
    assert (len(parts["dev"]), len(parts["test"])) == (0, 6)


# --- jobs ------------------------------------------------------------------------------------


def planned(recipe: Recipe, stage: str, count: int = 4) -> list[tuple[str, int, int, bool]]:
    """Label, seed, number of items and whether it is timed, of every job."""
    questions = {"spider": items(count, 1)}
    return [
        (job.label, job.seed, len(job.items), job.is_timed)
        for job in jobs(recipe, stage, questions, {})
    ]


TWO = [
    {"name": "a", "method": "autoregressive"},
    {"name": "g", "method": "autoregressive", "sampling": {"temperature": 0.0}},
]


def test_runs_take_turns_on_every_batch_and_another_begins_each_time() -> None:
    recipe = parse(table(run={"batch_size": 2}, runs=TWO))
    assert planned(recipe, "test") == [
        ("a", 0, 2, True),
        ("g", 0, 2, True),
        ("g", 0, 2, True),
        ("a", 0, 2, True),
    ]


def test_greedy_runs_get_one_seed_and_untimed_seeds_large_batches() -> None:
    run = {"seeds": 3, "timed_seeds": 1, "batch_size": 1, "untimed_batch_size": 4}
    recipe = parse(table(run=run, runs=TWO))
    untimed = [job for job in planned(recipe, "test") if not job[3]]
    assert untimed == [("a", 1, 4, False), ("a", 2, 4, False)]


def test_without_timed_seeds_all_rows_are_still_decoded() -> None:
    recipe = parse(table(run={"seeds": 2, "timed_seeds": 0}, runs=TWO))
    assert sorted(planned(recipe, "test")) == [
        ("a", 0, 4, False),
        ("a", 1, 4, False),
        ("g", 0, 4, False),
    ]


def test_the_dev_stage_decodes_every_point_of_a_grid_and_nothing_else() -> None:
    grid = {"name": "m", "method": "mtad", "grid": {"beam_width": [2, 3]}}
    recipe = parse(table(run={"num_dev": 2, "dev_seeds": 2}, runs=[*TWO, grid]))
    assert {label for label, *_ in planned(recipe, "dev")} == {
        "m [beam_width=2]",
        "m [beam_width=3]",
    }


def test_speed_is_chosen_by_timed_rows_alone() -> None:
    grid = {"method": "speculative_sampling", "grid": {"num_draft_tokens": [2, 3]}}
    recipe = parse(table(run={"num_dev": 2, "dev_seeds": 3}, runs=[grid]))
    assert {(seed, is_timed) for _, seed, _, is_timed in planned(recipe, "dev")} == {(0, True)}


def test_a_job_loses_the_rows_that_are_done() -> None:
    recipe = parse(table(run={"batch_size": 4}))
    job = next(jobs(recipe, "test", {"spider": items(4, 1)}, {}))
    rest = job.without(job.keys[:3])
    assert rest is not None
    assert rest.items == job.items[3:]
    assert job.without(job.keys) is None

"""The lossy dial: what is swept, which setting is taken, and what is written about it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.benchmarks import JOULES, TASKS, sample, score
from support.command import answer, cli, refused, without_loading
from support.tiny import heat_of

import mtad
from mtad import methods
from mtad.api.options import read_config
from mtad.bench import run as run_module
from mtad.bench.files import read_conditions, read_samples, write_json
from mtad.bench.plan import Recipe
from mtad.bench.recipe import parse
from mtad.bench.report import Results, Summary
from mtad.bench.report.metrics import ENERGY, MEAN_QUALITY, PERPLEXITY, SPEED, Metric
from mtad.bench.results import read_recipe_of, read_results
from mtad.bench.statistics import Estimate, farthest_from_end
from mtad.bench.sweep import files
from mtad.bench.sweep.choice import (
    Kind,
    Setting,
    allowed,
    fastest,
    gain,
    is_measured_within,
    is_shown_below,
    pareto_runs,
    settings_of,
    values_of,
)
from mtad.bench.sweep.files import NO_LOSS_FILE, REPETITION_WARNING, Frontier
from mtad.bench.sweep.plot import frontier_lines, frontier_plot
from mtad.bench.sweep.recipe import LOSSLESS, REFERENCE, check, dial_of
from mtad.cli.bench.frontier import Flags
from mtad.errors import DataError
from mtad.tasks import BUNDLED

NUM_ITEMS = 12
PUBLISHED = Path(__file__).parents[2] / "benchmarks" / "results"
GREEDY, FAST_GREEDY = "autoregressive, greedy", "speculative_sampling, greedy"
LOW, HIGH = "mtad [accept_threshold=0.1]", "mtad [accept_threshold=0.5]"


def swept(**flags: Any) -> Recipe:
    """The recipe of the command with these flags."""
    return Flags(**flags).recipe()


SWEEP = swept(thresholds="0.1,0.5", option=["beam_width=2"], top_k=5)
CONDITIONS = {
    "target": {"name": "big", "dtype": "float32"},
    "draft": {"name": "small", "dtype": "float32"},
    "device": "cpu",
    "first_used": "2026-01-02T03:04:05+00:00",
}
Scores = Sequence[float | None]


# --- what is swept ---


def test_every_threshold_stands_beside_plain_lossless_and_greedy_runs() -> None:
    recipe = swept(
        method=["mtad", "typical_acceptance"],
        thresholds="0.0,0.5",
        option=["beam_width=2"],
        items=11,
        seeds=4,
        temperature=0.7,
        max_new_tokens=9,
    )
    cooler = (0.21, 0.35, 0.49)
    assert recipe.reference == REFERENCE == recipe.runs[0].name
    assert {run.name: run.points[0].method for run in recipe.runs} == {
        REFERENCE: mtad.Autoregressive(),
        **{f"{REFERENCE}, temperature {heat}": mtad.Autoregressive() for heat in cooler},
        LOSSLESS: mtad.SpeculativeSampling(),
        GREEDY: mtad.Autoregressive(),
        FAST_GREEDY: mtad.SpeculativeSampling(),
        "mtad [accept_threshold=0.0]": mtad.MTAD(beam_width=2, accept_threshold=0.0),
        "mtad [accept_threshold=0.5]": mtad.MTAD(beam_width=2, accept_threshold=0.5),
        "typical_acceptance [posterior_threshold=0.0]": mtad.TypicalAcceptance(
            posterior_threshold=0.0
        ),
        "typical_acceptance [posterior_threshold=0.5]": mtad.TypicalAcceptance(
            posterior_threshold=0.5
        ),
    }
    heats = {run.name: run.sampling["temperature"] for run in recipe.runs}
    assert [name for name, heat in heats.items() if heat == 0.0] == [GREEDY, FAST_GREEDY]
    assert tuple(heats[name] for name in heats if ", temperature " in name) == cooler
    assert {heat for heat in heats.values() if heat not in (0.0, *cooler)} == {0.7}
    assert recipe.tasks["spider"].num_test == 11
    assert (recipe.plan.seeds, recipe.plan.batch_size, recipe.plan.max_new_tokens) == (4, 1, 9)
    assert not any(run.is_tuned for run in recipe.runs)


WITH_A_DIAL = [name for name in methods.names() if methods.find(name).dial is not None]


@pytest.mark.parametrize("method", WITH_A_DIAL)
def test_the_values_that_are_tried_by_themselves_are_lossy_settings(method: str) -> None:
    recipe = swept(method=[method], temperature=heat_of(method))
    made = [run.points[0].method for run in recipe.runs if run.name.startswith(f"{method} [")]
    option = dial_of(method).option
    assert [getattr(m, option) for m in made] == list(dial_of(method).values)
    assert not any(m.is_lossless for m in made)


def test_a_method_from_elsewhere_is_swept_by_its_dial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    runs = swept(method=["examples.custom_method"], option=["num_draft_tokens=2"]).runs[-4:]
    made = [run.points[0].method for run in runs]
    assert {m.name for m in made} == {"lenient_sampling"}
    assert [getattr(m, "lenience", None) for m in made] == [0.2, 0.4, 0.6, 0.8]
    assert {getattr(m, "num_draft_tokens", None) for m in made} == {2}
    assert runs[0].name == "examples.custom_method [lenience=0.2]"


def test_every_sampling_setting_has_its_flag() -> None:
    plain = {"temperature": 1.0, "top_k": 0, "top_p": 1.0}
    assert swept().table["sampling"] == plain
    recipe = swept(min_p=0.05, repetition_penalty=1.1, max_new_tokens=9)
    assert recipe.table["sampling"] == plain | {"min_p": 0.05, "repetition_penalty": 1.1}
    assert recipe.plan.max_new_tokens == 9


def test_greedy_sampling_has_no_greedy_rows_beside_it() -> None:
    recipe = swept(thresholds="0.5", temperature=0.0)
    assert [run.name for run in recipe.runs] == [REFERENCE, LOSSLESS, HIGH]


def test_own_models_keep_their_threads_and_dtype() -> None:
    assert swept().plan.num_threads == 1
    assert swept().pair.dtype == "float32"
    recipe = swept(target_model="big", draft_model="small")
    assert (recipe.plan.num_threads, recipe.pair.dtype, recipe.pair.draft) == (0, "auto", "small")


# --- what each setting is worth ---


def results(scores: dict[str, Scores], task: str = "spider", **fields: Any) -> Results:
    """The rows of a swept folder, 12 items a run.

    Args:
        scores: of the items, by run; runs of the sweep that are not named get halves.
        task: theirs.
        fields: by the name of a field of `Sample`, its value by run.
    """
    samples, scored = [], []
    for run in SWEEP.runs:
        chosen = run.points[0].method
        options = dict(vars(chosen))
        values = scores.get(run.name, [0.0, 1.0] * (NUM_ITEMS // 2))
        for number, value in enumerate(values):
            row = sample(
                run.name,
                f"i{number:02}",
                task=task,
                method={"name": chosen.name, "options": options, "lossless": chosen.is_lossless},
                sampling=dict(run.sampling),
                **{"nll": 1.0}
                | {name: by_run[run.name] for name, by_run in fields.items() if run.name in by_run},
            )
            samples.append(row)
            scored.append(score(row, value))
    names = [run.name for run in SWEEP.runs]
    only = {task: TASKS[task]}
    return Results(samples, scored, only, {"c1": CONDITIONS}, runs=names, reference=REFERENCE)


def frontier(found: Results, max_loss: float = 2.0, command: str = "mtad …") -> Frontier:
    [task] = found.tasks
    options = {"data": "prompts.jsonl"} if task == "perplexity" else {}
    table = {**SWEEP.table, "tasks": {task: options}}
    return Frontier(parse(table), found, max_loss, command)


def setting(
    kind: Kind = "lossy",
    value: float | None = 0.0,
    low: float | None = -1.0,
    high: float | None = 1.0,
    speed: float | None = 1.0,
    num_items: int = 50,
    run: str = "a",
) -> Setting:
    gained = Estimate(value, low, high, num_items)
    return Setting(run, mtad.MTAD(), kind, gained, Estimate(speed))


def test_settings_are_of_four_kinds() -> None:
    recipe = swept(method=["speculative_sampling"], thresholds="0.5")
    table = {run.name: run for run in recipe.runs}
    rows = [
        sample(name, f"i{n}", sampling=dict(run.sampling))
        for name, run in table.items()
        for n in range(2)
    ]
    found = Results(
        rows, [score(row, 1.0) for row in rows], {"spider": TASKS["spider"]}, reference=REFERENCE
    )
    assert {s.run: s.kind for s in settings_of(Summary(found), recipe)} == {
        REFERENCE: "lossless",
        **{f"{REFERENCE}, temperature {heat}": "cooler" for heat in (0.3, 0.5, 0.7)},
        LOSSLESS: "lossless",
        GREEDY: "greedy",
        FAST_GREEDY: "greedy",
        "speculative_sampling [accept_threshold=0.5]": "lossy",
    }


def test_a_gain_is_points_of_100_on_the_same_items() -> None:
    summary = Summary(results({REFERENCE: [0.0] * 9 + [1.0] * 3, LOW: [0.0] * 6 + [1.0] * 6}))
    more = gain(summary, LOW, REFERENCE)
    assert (more.value, more.num_items) == (25.0, NUM_ITEMS)
    assert more.low is not None and more.high is not None
    assert 0 <= more.low < 25 < more.high <= 60
    assert gain(summary, REFERENCE, LOW).value == -25.0


def test_items_that_all_agree_are_no_certainty() -> None:
    more = gain(Summary(results({})), LOW, REFERENCE)
    reach = 100 * farthest_from_end(NUM_ITEMS)
    assert (more.value, more.low, more.high) == (0.0, -reach, reach)
    assert reach == pytest.approx(26.5, abs=0.1)


def test_without_scores_a_gain_is_the_perplexity_saved() -> None:
    scores: dict[str, Scores] = {run.name: [None] * NUM_ITEMS for run in SWEEP.runs}
    found = results(scores, "perplexity", nll={LOW: 0.5, HIGH: 2.0})
    by_run = {s.run: s for s in frontier(found).settings}
    perplexities = values_of(Summary(found))[PERPLEXITY]
    # ten tokens a row: the perplexities are exp(0.05), exp(0.1), exp(0.2)
    assert by_run[LOW].gain.value == pytest.approx(100 * (1 - 2.718281828**-0.05))
    assert by_run[HIGH].gain.value == pytest.approx(100 * (1 - 2.718281828**0.1))
    assert perplexities[LOW].value == pytest.approx(2.718281828**0.05)
    assert [run for run, s in by_run.items() if s.is_pareto] == [LOW]


def test_ends_of_a_gain_in_perplexity_are_in_order() -> None:
    found = results({REFERENCE: [None] * NUM_ITEMS, LOW: [None] * NUM_ITEMS}, "perplexity")
    uneven = [
        row if row.run != LOW else sample(**{**vars(row), "nll": 0.2 * n})
        for n, row in enumerate(found.samples)
    ]
    more = gain(Summary(Results(uneven, found.scores, found.tasks)), LOW, REFERENCE)
    assert more.low is not None and more.value is not None and more.high is not None
    assert more.low < more.value < more.high < 0


def test_the_pareto_set_counts_energy_where_all_have_it() -> None:
    names = [run.name for run in SWEEP.runs]
    fast = {"decode_s": {LOW: 1.0}}
    assert [s.run for s in frontier(results({}, **fast)).settings if s.is_pareto] == [LOW]
    thrifty = dict.fromkeys(names, JOULES) | {HIGH: {"joules": {"cpu": 1.0}}}
    found = frontier(results({}, energy=thrifty, **fast)).settings
    assert {s.run for s in found if s.is_pareto} == {LOW, HIGH}


def one_point(quality: float, speed: float, energy: float | None) -> dict[Metric, Estimate]:
    known = {MEAN_QUALITY: quality, PERPLEXITY: None, SPEED: speed, ENERGY: energy}
    return {metric: Estimate(value) for metric, value in known.items()}


def by_metric(points: dict[str, dict[Metric, Estimate]]) -> dict[Metric, dict[str, Estimate]]:
    return {metric: {run: at[metric] for run, at in points.items()} for metric in points["a"]}


def test_energy_counts_in_the_pareto_set_only_if_all_have_it() -> None:
    points = {
        "a": one_point(90.0, 1.0, 5.0),
        "b": one_point(80.0, 1.0, 3.0),
        "c": one_point(70.0, 1.0, 4.0),
    }
    assert pareto_runs(by_metric(points)) == {"a", "b"}
    assert pareto_runs(by_metric(points | {"d": one_point(90.0, 2.0, None)})) == {"d"}


@pytest.mark.slow
def test_the_plot_has_lines_by_threshold_and_level_ones() -> None:
    summary = Summary(results({LOW: [1.0] * NUM_ITEMS}, decode_s={LOW: 0.1}))
    dials = {"mtad": "accept_threshold"}
    lines = {line.label: line.places for line in frontier_lines(summary, dials)}
    beside = [run.name for run in SWEEP.runs if run.name not in (LOW, HIGH)]
    assert REFERENCE in beside and FAST_GREEDY in beside
    assert lines == {run: {} for run in beside} | {"mtad": {LOW: 0.1, HIGH: 0.5}}
    values = values_of(summary)
    assert values[SPEED][LOW].value == pytest.approx(2.0 / 0.1)
    assert (values[MEAN_QUALITY][LOW].value, values[MEAN_QUALITY][HIGH].value) == (100, 50)
    assert values[ENERGY][LOW].value is None
    assert frontier_plot(summary, dials).png.startswith(b"\x89PNG")


def test_rows_of_an_earlier_sweep_take_no_part() -> None:
    before = results({}, decode_s={LOW: 0.1, HIGH: 0.5})
    table = swept(thresholds="0.5", option=["beam_width=2"], top_k=5).table
    made = Frontier(parse(table), before, 2.0, "mtad …")
    assert LOW not in [s.run for s in made.settings]
    assert LOW not in made.text() and HIGH in made.text()
    assert [s.run for s in made.settings if s.is_pareto] == [HIGH]


# --- which one is taken ---


@pytest.mark.parametrize(
    ("given", "is_taken"),
    [
        (setting(low=-1.99), True),
        (setting(low=-2.0), False),
        (setting(low=-2.0 + 1e-15), False),
        (setting(value=30.0, low=-2.5, high=60.0), False),
        (setting(low=-1.0, num_items=9), False),
        (setting(low=-1.0, num_items=10), True),
        (setting(value=0.0, low=0.0, high=0.0), False),
        (setting(value=None, low=None, high=None), False),
        (setting("greedy", low=5.0), False),
        (setting("lossless", value=-30.0, low=-50.0), True),
        (setting("lossless", value=None, low=None, num_items=0), True),
    ],
)
def test_no_loss_shown_is_an_interval_above_the_margin(given: Setting, is_taken: bool) -> None:
    assert allowed([given], partial(is_shown_below, 2.0)) == ([given] if is_taken else [])


@pytest.mark.parametrize(
    ("given", "is_taken"),
    [
        (setting(value=-2.0, low=-9.0), True),
        (setting(value=-2.0 - 1e-15, low=-9.0), True),
        (setting(value=-2.01), False),
        (setting(value=5.0, num_items=9), False),
        (setting(value=None, low=None), False),
        (setting("greedy", value=5.0), False),
        (setting("lossless", value=-30.0), True),
    ],
)
def test_a_mean_loss_may_be_as_large_as_the_margin(given: Setting, is_taken: bool) -> None:
    assert allowed([given], partial(is_measured_within, 2.0)) == ([given] if is_taken else [])


def test_the_fastest_has_a_known_speed() -> None:
    slow, fast, unknown = (setting(speed=x) for x in (1.0, 2.0, None))
    assert fastest([slow, fast, unknown]) is fast
    assert fastest([unknown]) is None
    assert fastest([slow, setting(run="b")]) is slow


def chosen(made: Frontier) -> dict[str, str]:
    return {choice.file: choice.setting.run for choice in made.choices()}


AT_MOST = "at-most-2-percent-loss.toml"


def test_the_two_rules_differ_where_the_items_are_few() -> None:
    unlike: Scores = [1.0, 0.0] * (NUM_ITEMS // 2)
    fields = {"decode_s": {HIGH: 0.5, LOSSLESS: 1.0}}
    assert chosen(frontier(results({HIGH: unlike}, **fields))) == {
        NO_LOSS_FILE: LOSSLESS,
        AT_MOST: HIGH,
    }
    all_right: Scores = [1.0] * NUM_ITEMS
    assert chosen(frontier(results({HIGH: all_right}, **fields))) == {
        NO_LOSS_FILE: HIGH,
        AT_MOST: HIGH,
    }
    all_wrong: Scores = [0.0] * NUM_ITEMS
    made = frontier(results({HIGH: all_wrong}, **fields))
    assert chosen(made) == {NO_LOSS_FILE: LOSSLESS, AT_MOST: LOSSLESS}
    assert "No lossy setting that the rule allows was faster" in made.config(made.choices()[0])


def test_samples_without_a_score_are_no_evidence() -> None:
    scores: dict[str, Scores] = {HIGH: [None] * NUM_ITEMS}
    made = frontier(results(scores, decode_s={HIGH: 0.5}))
    assert chosen(made)[AT_MOST] != HIGH
    [row] = [line for line in made.text().splitlines() if line.startswith(f"| {HIGH} ")]
    cells = row.split(" | ")
    assert cells[1].startswith("–") and cells[8] == "–"


def test_where_nothing_can_be_lost_nothing_lossy_is_taken() -> None:
    scores: dict[str, Scores] = {run.name: [0.0] * NUM_ITEMS for run in SWEEP.runs}
    made = frontier(results(scores, decode_s={HIGH: 0.5}), max_loss=50.0)
    assert {*chosen(made).values()} == {REFERENCE}
    assert "a loss could not be seen" in made.text()
    # half of the answers are right: a loss of 50 points is all there is, one of 30 would show
    assert HIGH not in chosen(frontier(results({}, decode_s={HIGH: 0.5}), max_loss=50.0)).values()
    assert HIGH in chosen(frontier(results({}, decode_s={HIGH: 0.5}), max_loss=30.0)).values()


# --- what is said about it ---


def test_a_configuration_holds_the_method_and_its_evidence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = results({HIGH: [1.0] * NUM_ITEMS}, decode_s={HIGH: 0.5, LOSSLESS: 1.0})
    made = frontier(found, command="mtad bench frontier\nmethod = 'bild'\x00")
    text = made.config(made.choices()[0])
    path = tmp_path / "a.toml"
    path.write_text(text, encoding="utf-8")
    read = read_config(path)
    assert read.method == mtad.MTAD(beam_width=2, accept_threshold=0.5)
    assert read.sampling == {
        "temperature": 1.0,
        "top_k": 5,
        "top_p": 1.0,
        "max_new_tokens": 128,
    }
    without_loading(monkeypatch)
    made_by = answer("x", "--config", path, "--max-new-tokens", "4")["method"]
    assert made_by["name"] == "mtad"
    assert made_by["options"] | {"accept_threshold": 0.5, "beam_width": 2} == made_by["options"]
    plain = " ".join(line.removeprefix("#").strip() for line in text.splitlines())
    for part in (
        f"{HIGH}: chosen from 9 settings.",
        "the lower end of the paired 95 % interval of the difference is above −2 points of 100",
        "Pair: big and small (float32), on cpu, batch size 1, from 2026-01-02T03:04:05+00:00 on.",
        "12 items with up to 3 samples each, 12 items compared",
        "spider, execution accuracy, %: 100.0 [73.5, 100.0]; plain sampling: 50.0 [",
        "gain, points of 100: +50.0 [+",
        "tokens/s, relative: 4.00 [4.00, 4.00]; plain sampling: 1.00.",
        "tokens/s are of decoding only, J/token is gross.",
        f"tokens/s: 2.00 [2.00, 2.00] × {LOSSLESS}, the fastest without loss.",
        "perplexity: 1.105 [1.105, 1.105]; plain sampling: 1.105 [",
        "repetition rate: 0.000 [0.000, 0.000]; plain sampling: 0.000 [",
        "J/token: unavailable; plain sampling: unavailable.",
        "Command: mtad bench frontier method = 'bild'",
    ):
        assert part in plain


@pytest.mark.slow
def test_stored_rows_give_the_stored_files() -> None:
    [folder] = PUBLISHED.glob("*/frontier")
    [command] = re.findall("# Command: (.*)\n", (folder / AT_MOST).read_text(encoding="utf-8"))
    made = Frontier(read_recipe_of(folder), read_results(folder), 2.0, command)
    written = {"frontier.md": made.text() + "\n"}
    written |= {choice.file: made.config(choice) for choice in made.choices()}
    assert written == {name: (folder / name).read_text(encoding="utf-8") for name in written}
    assert {*written} == {"frontier.md", AT_MOST, NO_LOSS_FILE}


def test_energy_is_shown_where_there_is_a_meter() -> None:
    made = frontier(results({}, energy={REFERENCE: JOULES}))
    rows = {line.split(" | ")[0]: line.split(" | ") for line in made.text().splitlines()}
    assert rows[f"| {REFERENCE}"][7] == "0.80 [0.80, 0.80]"
    assert rows[f"| {LOW}"][7] == "unavailable"
    text = made.config(made.choices()[0])
    assert "J/token: 0.80 [0.80, 0.80]; plain sampling: 0.80 [0.80, 0.80]." in text


@pytest.mark.parametrize(
    ("right", "seconds", "is_said"), [(12, 0.5, True), (6, 0.5, False), (12, 2.0, False)]
)
def test_greedy_is_named_if_it_is_both_better_and_faster(
    right: int, seconds: float, is_said: bool
) -> None:
    scores: Scores = [1.0] * right + [0.0] * (NUM_ITEMS - right)
    made = frontier(results({FAST_GREEDY: scores}, decode_s={FAST_GREEDY: seconds}))
    assert (f"{FAST_GREEDY} was both better (+50.0 [" in made.text()) is is_said
    assert (f"{FAST_GREEDY} was both better" in made.config(made.choices()[0])) is is_said
    assert FAST_GREEDY not in chosen(made).values()


def test_a_loss_that_buys_no_speed_is_pointed_out() -> None:
    right: Scores = [1.0] * NUM_ITEMS
    remark = f"It is not shown to be faster than {LOSSLESS}"
    quick = frontier(results({HIGH: right}, decode_s={HIGH: 0.9, LOSSLESS: 1.0}))
    assert chosen(quick)[NO_LOSS_FILE] == HIGH and remark not in quick.text()
    found = results({HIGH: right}, decode_s={HIGH: 0.9, LOSSLESS: 1.0})
    shaky = [
        sample(**{**vars(row), "decode_s": 0.1 if row.item != "i00" else 9.0})
        if row.run == HIGH
        else row
        for row in found.samples
    ]
    made = frontier(
        Results(
            shaky, found.scores, found.tasks, found.conditions, runs=found.runs, reference=REFERENCE
        )
    )
    assert chosen(made)[NO_LOSS_FILE] == HIGH and remark in made.text()


def test_own_prompts_come_with_a_warning() -> None:
    scores: dict[str, Scores] = {run.name: [None] * NUM_ITEMS for run in SWEEP.runs}
    made = frontier(results(scores, "perplexity"))
    assert REPETITION_WARNING in made.text()
    assert "0 to 100" not in made.text()
    assert "repetition rate" in made.text()
    assert REPETITION_WARNING not in frontier(results({})).text()


# --- from the command line ---


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch, demo_pair: mtad.ModelPair) -> None:
    monkeypatch.setattr(run_module, "load", lambda recipe: demo_pair)
    monkeypatch.setattr(run_module, "IDLE_S", 0.0)


@pytest.fixture
def never_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail as soon as a model is asked for."""
    monkeypatch.setattr(run_module, "load", lambda recipe: pytest.fail("a model was loaded"))


SMALL = ("--items", "10", "--seeds", "1", "--max-new-tokens", "5", "--top-k", "10")
FRONTIER = ("bench", "frontier", *SMALL)


@pytest.mark.slow
@pytest.mark.usefixtures("loaded")
def test_a_sweep_in_one_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = (*FRONTIER, "--thresholds", "0.5", "-o", "beam-width=2", "--output", tmp_path)
    first = cli(*arguments)
    assert first.exit_code == 0
    assert f"\n| {HIGH} | " in first.stdout
    assert (tmp_path / "frontier.png").read_bytes().startswith(b"\x89PNG")
    report = "report/report.md"
    others = ("report/report.html", "report/differences.csv", "report/exports/spider")
    for name in ("frontier.svg", "frontier.md", report, *others):
        assert (tmp_path / name).stat().st_size > 0
    samples = read_samples(tmp_path)
    assert len(samples) == 8 * 10
    assert "| as likely as sampling at temperature |" in (tmp_path / report).read_text()
    assert {s.method["options"]["beam_width"] for s in samples if s.run == HIGH} == {2}
    assert {s.is_timed for s in samples} == {True}
    plain = {"temperature": 1.0, "top_k": 10, "top_p": 1.0, "max_new_tokens": 5}
    assert [s.sampling for s in samples if s.run == HIGH] == [plain] * 10

    for name in (NO_LOSS_FILE, AT_MOST):
        table = tomllib.loads((tmp_path / name).read_text(encoding="utf-8"))
        read = read_config(tmp_path / name)
        without_loading(monkeypatch)
        record = answer("x", "--config", tmp_path / name)
        assert record["method"]["name"] == table["method"] == read.method.name
        assert len(record["token_ids"]) <= 5

    monkeypatch.setattr(files, "write_report", lambda *given, **named: [])
    again = cli(*arguments)
    assert (again.exit_code, again.stdout) == (0, first.stdout)
    assert read_samples(tmp_path) == samples
    assert len(read_conditions(tmp_path)) == 1
    scored = cli("bench", "score", tmp_path)
    assert scored.exit_code == 0 and "0 new scores" in scored.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("loaded")
def test_own_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "write_report", lambda *given, **named: [])
    path, output = tmp_path / "mine.jsonl", tmp_path / "out"
    path.write_text('{"prompt": "def f(x):"}\n' * 10, encoding="utf-8")
    arguments = ("--thresholds", "0.5", "--temperature", "0", "--output", output)
    result = cli(*FRONTIER, "--prompts", path, *arguments)
    assert result.exit_code == 0
    assert REPETITION_WARNING in result.stdout
    assert {s.task for s in read_samples(output)} == {"perplexity"}
    config = (output / NO_LOSS_FILE).read_text(encoding="utf-8")
    assert "# Rule: " in config and "% of perplexity" in config


@pytest.mark.usefixtures("never_loaded")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "squad"], "no task 'squad'; known tasks: spider"),
        (["--method", "nonsense"], "there is no method 'nonsense'; known methods: "),
        (
            ["--method", "spectr"],
            "'spectr' has no threshold to move; those that have one: bild, ",
        ),
        (["--method", "mtad", "--method", "mtad"], "each may be given once"),
        (["--thresholds", "0.5,-1"], "accept_threshold is -1"),
        (["--method", "typical_acceptance", "--thresholds", "1.5"], "a number from 0 to 1"),
        (["--thresholds", "high"], "--thresholds is 'high'; it must be numbers"),
        (["--thresholds", "nan"], "--thresholds is 'nan'; it must be numbers"),
        (["--thresholds", "0.5,0.5"], "each value may stand once"),
        (["--items", "9"], "9 items of spider are too few for intervals; give 10 or more"),
        (["--max-loss", "-1"], "--max-loss is -1; it must be from 0"),
        (["--max-loss", "nan"], "--max-loss is nan; it must be from 0"),
        (["-o", "accept_threshold=0.5"], "give --thresholds instead of -o"),
        (["-o", "endpoint"], "-o endpoint: expected NAME=VALUE"),
        (["-o", "posterior_alpha=0.5"], "it must be an option of mtad"),
        (["-o", "beam_width=two"], "beam_width is 'two'; it must be an integer"),
        (["-o", "beam_width=2", "-o", "beam_width=3"], "beam_width is given twice"),
        (["--target-model", "big"], "only one of target and draft model is given"),
        (["--prompts", "no-such-file.jsonl"], "does not exist"),
        (["--judge-model", "reference"], "judge is of mt_bench, and the task is spider"),
        (["--temperature", "-1"], "temperature"),
    ],
)
def test_what_cannot_be_swept_is_refused(arguments: list[str], message: str) -> None:
    assert message in refused("bench", "frontier", *arguments)


@pytest.mark.usefixtures("never_loaded")
def test_prompts_are_a_task_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "few.jsonl"
    path.write_text('{"prompt": "x"}\n' * 9, encoding="utf-8")
    both = refused("bench", "frontier", "--prompts", path, "--task", "spider")
    assert "--prompts is a task of its own" in both
    few = refused("bench", "frontier", "--prompts", path, "--output", tmp_path / "out")
    assert "9 items of perplexity are too few for intervals; give 10 or more" in few


@pytest.mark.usefixtures("never_loaded")
def test_scoring_that_is_not_allowed_is_refused_before_anything_is_decoded(tmp_path: Path) -> None:
    code = refused("bench", "frontier", "--task", "human_eval", "--output", tmp_path, code=1)
    assert "--allow-code-execution" in code
    (tmp_path / "mt_bench").symlink_to(BUNDLED / "mt_bench")
    judge = refused(
        "bench", "frontier", "--task", "mt_bench", "--data", tmp_path, "--output", tmp_path, code=1
    )
    assert "judge" in judge
    assert not (tmp_path / "samples.jsonl").exists()


@pytest.mark.usefixtures("never_loaded")
def test_results_of_another_sweep_are_not_mixed_in(tmp_path: Path) -> None:
    write_json(tmp_path / "recipe.json", swept(task="mt_bench").table)
    message = refused("bench", "frontier", "--output", tmp_path, code=1)
    assert "has the results of another sweep" in message and "give another --output" in message


def test_more_thresholds_may_be_added_to_a_folder(tmp_path: Path) -> None:
    write_json(tmp_path / "recipe.json", swept(thresholds="0.1").table)
    check(swept(thresholds="0.1,0.5", seeds=9, spider_match="authors"), tmp_path)
    with pytest.raises(DataError, match="another sweep"):
        check(swept(chat=True), tmp_path)

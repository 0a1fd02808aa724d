"""From a recipe to samples and scores: complete, resumable, and measured alike for every run."""

from __future__ import annotations

import dataclasses
import json
import lzma
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from support.benchmarks import BASE, BUDGET, sample, score
from support.command import MAIN, cli, refused

from mtad import demo
from mtad.api.pair import ModelPair, load_pair
from mtad.bench import run as run_module
from mtad.bench.choose import choose
from mtad.bench.files import read_conditions, read_json, read_samples, read_scores, write_json
from mtad.bench.likelihood import negative_log_likelihoods, up_to_eos
from mtad.bench.plan import Recipe
from mtad.bench.recipe import parse
from mtad.bench.results import export, read_results
from mtad.bench.run import run
from mtad.bench.runner import JobRunner, seed_of
from mtad.bench.sample import Sample
from mtad.bench.score import score_folder
from mtad.errors import DataError, IsolationError, JudgeError
from mtad.measure.energy import Reading
from mtad.measure.meter import Meter
from mtad.tasks import Item, Score
from mtad.tasks.perplexity import perplexity, repeated_4grams
from mtad.tasks.spider import Spider

LOAD = run_module.load


@pytest.fixture(autouse=True)
def _pair_and_no_rest(monkeypatch: pytest.MonkeyPatch, demo_pair: ModelPair) -> None:
    """One loaded pair for all tests, and no waiting for the idle power."""
    monkeypatch.setattr(run_module, "load", lambda recipe: demo_pair)
    monkeypatch.setattr(run_module, "IDLE_S", 0.0)


def recipe(**changes: Any) -> Recipe:
    run = {**BASE["run"], **changes.pop("run", {})}
    return parse({**BASE, "run": run, **changes})


def texts(samples: list[Sample]) -> dict[Any, Any]:
    """What was answered, by key."""
    return {s.key: (s.answers, s.token_ids, s.finish_reasons) for s in samples}


def decoded(wanted: Recipe, folder: Path, pair: ModelPair, idle_s: float = 0.0) -> Path:
    """The folder of a run, for all tests of the module: not to be changed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "load", lambda recipe: pair)
        patch.setattr(run_module, "IDLE_S", idle_s)
        run(wanted, folder)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, demo_pair: ModelPair) -> Path:
    """The folder of a run that nothing disturbed, scored."""
    folder = decoded(recipe(), tmp_path_factory.mktemp("whole"), demo_pair)
    score_folder(recipe(), folder)
    return folder


@pytest.fixture
def first_seed(whole: Path, tmp_path: Path) -> Path:
    """A folder with the rows of the first seed alone, not scored."""
    rows = (whole / "samples.jsonl").read_text().splitlines(keepends=True)
    kept = [row for row in rows if json.loads(row)["seed"] == 0]
    (tmp_path / "samples.jsonl").write_text("".join(kept))
    return tmp_path


@pytest.mark.slow
def test_every_item_run_and_seed_has_its_row(whole: Path) -> None:
    samples = read_samples(whole)
    assert Counter((s.run, s.seed, s.is_timed) for s in samples) == {
        ("autoregressive", 0, True): 3,
        ("autoregressive", 1, False): 3,
        ("mtad", 0, True): 3,
        ("mtad", 1, False): 3,
        ("greedy", 0, True): 3,
    }
    assert len({s.item for s in samples}) == 3
    assert {s.batch_size for s in samples if s.is_timed} == {1}
    assert {s.batch_size for s in samples if not s.is_timed} == {2}


@pytest.mark.slow
def test_runs_take_turns(whole: Path) -> None:
    timed = [(s.run, s.item) for s in read_samples(whole) if s.is_timed]
    assert [r for r, _ in timed] == [
        *("autoregressive", "mtad", "greedy"),
        *("mtad", "greedy", "autoregressive"),
        *("greedy", "autoregressive", "mtad"),
    ]
    assert [len({i for _, i in timed[n : n + 3]}) for n in (0, 3, 6)] == [1, 1, 1]


@pytest.mark.slow
def test_rows_say_what_was_done(whole: Path, demo_pair: ModelPair) -> None:
    by_run = {s.run: s for s in read_samples(whole)}
    mtad_row = by_run["mtad"]
    assert mtad_row.method["options"]["accept_threshold"] == 0.5
    assert mtad_row.method["lossless"] is False
    assert mtad_row.sampling == {
        "temperature": 1.0,
        "top_k": 10,
        "top_p": 0.9,
        "max_new_tokens": BUDGET,
    }
    assert by_run["greedy"].sampling["temperature"] == 0.0
    [conditions] = read_conditions(whole).values()
    assert mtad_row.conditions == conditions["id"]
    assert conditions["target"]["dtype"] == "float32"
    assert conditions["versions"]["torch"] == torch.__version__
    assert conditions["meter"] == "unavailable" or "rapl" in conditions["meter"].lower()


@pytest.mark.slow
def test_a_text_is_that_of_the_library_with_the_row_s_seed(
    whole: Path, demo_pair: ModelPair
) -> None:
    task = recipe().tasks["spider"].task
    prompts = {item.id: item.turns[0] for item in task.prompts()}
    for s in read_samples(whole):
        if s.run != "mtad":
            continue
        out = demo_pair.generate(
            prompts[s.item],
            "mtad",
            seed=seed_of(s.seed, s.task, s.item, 0),
            stop=list(task.stops),
            **s.sampling,
        )[0]
        assert (out.text, out.token_ids) == (s.answers[0], s.token_ids[0])


def test_seeds_differ_by_seed_task_item_and_turn() -> None:
    keys = [
        (0, "t", "i", 0),
        (1, "t", "i", 0),
        (0, "u", "i", 0),
        (0, "t", "j", 0),
        (0, "t", "i", 1),
    ]
    assert len({seed_of(*key) for key in keys}) == len(keys)


def test_times_fit_together(whole: Path) -> None:
    for s in read_samples(whole):
        assert 0 < s.decode_s <= s.wall_s
        assert 0 < s.prefill_s <= s.wall_s


def test_a_run_that_is_done_does_nothing_more(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(JobRunner, "samples", lambda *_: pytest.fail("decoded again"))
    before = (whole / "samples.jsonl").read_bytes()
    run(recipe(), whole)
    assert (whole / "samples.jsonl").read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize(
    "rows", [4, *(pytest.param(rows, marks=pytest.mark.slow) for rows in (1, 11))]
)
def test_an_interrupted_run_goes_on_and_gives_the_same(
    whole: Path, tmp_path: Path, rows: int
) -> None:
    def stop(stage: str, label: str, done: int, total: int) -> None:
        if done >= rows:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(recipe(), tmp_path, stop)
    with (tmp_path / "samples.jsonl").open("a") as stream:
        stream.write('{"stage": "test", "task"')  # as if killed while writing
    assert rows <= len(read_samples(tmp_path)) < 15
    reported: list[int] = []
    run(recipe(), tmp_path, lambda stage, label, done, total: reported.append(done))
    assert texts(read_samples(tmp_path)) == texts(read_samples(whole))
    assert reported[0] >= rows  # it said how much was there already


@pytest.mark.slow
def test_a_killed_process_loses_and_repeats_nothing(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text(_toml())
    out = tmp_path / "out"
    command = [*MAIN, "bench", "run", str(path), "-o", str(out)]
    started = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    while started.poll() is None and not _num_lines(out / "samples.jsonl"):
        time.sleep(0.002)
    os.killpg(started.pid, signal.SIGKILL)
    started.wait()
    assert 0 < _num_lines(out / "samples.jsonl") < 15
    run(recipe(), out)
    assert texts(read_samples(out)) == texts(read_samples(whole))


def _num_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _toml() -> str:
    """BASE as a file."""
    return f"""
name = "tiny"
pair = {{ dtype = "float32" }}
[run]
seeds = 2
num_test = 3
max_new_tokens = {BUDGET}
untimed_batch_size = 2
num_threads = 1
[sampling]
temperature = 1.0
top_k = 10
top_p = 0.9
[tasks.spider]
[[runs]]
method = "autoregressive"
[[runs]]
method = "mtad"
[[runs]]
name = "greedy"
method = "autoregressive"
sampling = {{ temperature = 0.0 }}
"""


@pytest.mark.slow
def test_more_seeds_and_items_are_added_to_what_is_there(whole: Path, tmp_path: Path) -> None:
    run(recipe(run={"seeds": 1, "num_test": 2}), tmp_path)
    run(recipe(), tmp_path)
    assert texts(read_samples(tmp_path)) == texts(read_samples(whole))


def test_rows_of_other_options_are_not_mixed(whole: Path) -> None:
    other = [*BASE["runs"][:1], {"method": "mtad", "options": {"beam_width": 2}}]
    with pytest.raises(DataError, match="rows of run 'mtad' were made with other options"):
        run(recipe(runs=other), whole)
    with pytest.raises(DataError, match="made with other options"):
        run(recipe(sampling={"temperature": 0.5}), whole)
    with pytest.raises(DataError, match="made with other options"):
        run(recipe(run={"max_new_tokens": BUDGET - 1}), whole)


def test_rows_of_another_pair_are_not_mixed(
    whole: Path, monkeypatch: pytest.MonkeyPatch, demo_pair: ModelPair
) -> None:
    other = load_pair(target=demo.DRAFT_PATH, draft=demo.DRAFT_PATH, dtype="float32")
    monkeypatch.setattr(run_module, "load", lambda recipe: other)
    with pytest.raises(DataError, match="rows of another pair"):
        run(recipe(), whole)


@pytest.mark.slow
def test_warm_up_comes_first_and_is_thrown_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, int]] = []
    real = JobRunner.samples

    def noted(self: JobRunner, job: Any, task: Any, budget: int) -> list[Sample]:
        calls.append((job.label, _num_lines(tmp_path / "samples.jsonl")))
        return real(self, job, task, budget)

    monkeypatch.setattr(JobRunner, "samples", noted)
    run(recipe(run={"seeds": 1, "num_test": 2, "max_new_tokens": 2}), tmp_path)
    assert sorted(calls[:3]) == [("autoregressive", 0), ("greedy", 0), ("mtad", 0)]
    assert calls[3] == ("autoregressive", 0)  # the first row that stays
    assert len(calls) == 3 + 6


def test_a_run_that_used_up_its_time_gets_no_more_items(tmp_path: Path) -> None:
    run(recipe(run={"seeds": 1, "time_limit_s": 1e-6, "max_new_tokens": 2}), tmp_path)
    assert Counter(s.run for s in read_samples(tmp_path)) == {
        "autoregressive": 1,
        "mtad": 1,
        "greedy": 1,
    }


def test_other_data_under_the_same_ids_are_not_mixed(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    own = _own_prompts(path)
    path.write_text('{"prompt": "def f(x):"}\n')
    run(own, tmp_path / "out")
    path.write_text('{"prompt": "def g(x):"}\n')
    with pytest.raises(DataError, match="item 1 of perplexity is another one"):
        run(own, tmp_path / "out")


def test_an_item_never_changes_sides(tmp_path: Path) -> None:
    lines = [json.dumps({"prompt": f"def f{n}(x):"}) for n in range(8)]
    (tmp_path / "p.jsonl").write_text("\n".join(lines) + "\n")
    tasks = {"perplexity": {"data": str(tmp_path / "p.jsonl")}}
    plan = {"seeds": 1, "num_test": 0, "num_dev": 2, "max_new_tokens": 4}
    run(recipe(run=plan, runs=[BASE["runs"][0]], tasks=tasks), tmp_path / "out")
    later = recipe(run=plan | {"num_dev": 4}, runs=[_MTAD_GRID], tasks=tasks)
    with pytest.raises(DataError, match="was on the other side of the split"):
        run(later, tmp_path / "out")


def test_an_id_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a", "question_id": 2}\n{"prompt": "b"}\n')
    with pytest.raises(DataError, match="has the id '2' twice"):
        run(recipe(tasks={"perplexity": {"data": str(path)}}), tmp_path / "out")


def test_options_come_back_to_the_last_digit(tmp_path: Path) -> None:
    rows = [
        {"name": "third", "method": "mtad", "options": {"accept_threshold": 1 / 3}},
        {"name": "never", "method": "mtad", "options": {"accept_threshold": math.inf}},
    ]
    own = recipe(run={"seeds": 1, "num_test": 1, "max_new_tokens": 2}, runs=rows)
    run(own, tmp_path)
    run(own, tmp_path)
    options = {s.run: s.method["options"]["accept_threshold"] for s in read_samples(tmp_path)}
    assert options == {"third": 1 / 3, "never": "inf"}


# --- energy, phases, likelihood ----------------------------------------------------------------


@dataclass
class Steady:
    """Counters of a machine that uses 50 W, whatever the clock of the test machine says."""

    source: str = "steady"
    interval_s: float = 1e-6
    ranges: Mapping[str, int] = field(default_factory=dict)

    def read(self) -> Reading:
        now = time.perf_counter()
        return Reading(now, {"cpu:package-0": int(now * 50e6)})


@pytest.fixture(scope="module")
def metered(tmp_path_factory: pytest.TempPathFactory, demo_pair: ModelPair) -> Path:
    """The folder of a run with a meter, split into phases."""
    wanted = recipe(run={"phases": True, "batch_size": 2, "num_test": 2, "max_new_tokens": 4})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "find_meter", lambda devices: Meter(Steady()))
        return decoded(wanted, tmp_path_factory.mktemp("metered"), demo_pair, idle_s=0.01)


@pytest.mark.slow
def test_energy_is_that_of_the_timed_windows(metered: Path) -> None:
    samples = read_samples(metered)
    assert {s.energy is None for s in samples if not s.is_timed} == {True}
    for s in samples:
        if s.is_timed:
            assert s.energy is not None
            joules = s.energy["joules"]["cpu:package-0"]
            assert joules == pytest.approx(50 * s.energy["wall_s"], rel=0.01)
            assert s.energy["wall_s"] >= s.wall_s * 0.99
            assert s.phases_j is not None
            assert sum(s.phases_j.values()) <= joules
    [conditions] = read_conditions(metered).values()
    assert conditions["idle_power_w"]["cpu:package-0"] == pytest.approx(50, rel=0.01)


def test_without_a_meter_energy_is_unavailable_and_not_zero(whole: Path) -> None:
    for s in read_samples(whole):
        assert s.energy is None or s.energy["joules"]
        assert s.phases_s is None


@pytest.mark.slow
def test_phases_are_kept_for_timed_rows(metered: Path) -> None:
    for s in read_samples(metered):
        assert (s.phases_s is not None) == s.is_timed
        if s.phases_s is not None:
            assert set(s.phases_s) == {"draft", "target", "verify", "commit"}
            assert sum(s.phases_s.values()) <= s.decode_s


def test_the_likelihood_is_that_of_the_raw_target(whole: Path, demo_pair: ModelPair) -> None:
    task = recipe().tasks["spider"].task
    prompts = {item.id: item.turns[0] for item in task.prompts()}
    target, tokenizer = demo_pair.models.target, demo_pair.tokenizer
    for s in read_samples(whole)[::4]:
        ids = tokenizer(prompts[s.item]).input_ids
        text = torch.tensor([[*ids, *s.token_ids[0]]])
        with torch.no_grad():
            out = target(text, labels=torch.tensor([[-100] * len(ids) + list(s.token_ids[0])]))
        assert s.nll == pytest.approx(float(out.loss) * len(s.token_ids[0]), rel=1e-4)


def test_likelihoods_do_not_depend_on_the_batch(
    demo_pair: ModelPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [[1, 5, 9], [1, 7], [1, 20, 21, 22, 23]]
    outputs = [[30, 31, 32], [], [40]]
    together = negative_log_likelihoods(demo_pair, prompts, outputs)
    monkeypatch.setattr("mtad.bench.likelihood.MAX_LOGITS", 1)
    alone = negative_log_likelihoods(demo_pair, prompts, outputs)
    assert together == pytest.approx(alone, rel=1e-4)
    assert together[1] == 0.0
    assert min(together[0], together[2]) > 0


def test_a_likelihood_reads_no_more_of_a_prompt_than_the_prefix_cache_lacks(
    demo_pair: ModelPair,
) -> None:
    models, prompt, output = demo_pair.models, [1, *range(40, 90)], [30, 31, 32]
    pair = ModelPair(models.target, None, models.tokenizer, prefix_cache_mib=8)
    [whole] = negative_log_likelihoods(pair, [prompt], [output])
    fed: list[int] = []
    model = models.target.get_input_embeddings()
    handle = model.register_forward_pre_hook(lambda _, given: fed.append(given[0].numel()))
    try:
        [again] = negative_log_likelihoods(pair, [prompt], [output])
    finally:
        handle.remove()
    assert again == pytest.approx(whole, rel=1e-3)
    assert fed == [len(prompt) - 1 - 48, len(output)]


@pytest.mark.parametrize("timed", [0, 1])
def test_prompts_are_kept_where_nothing_is_timed(
    monkeypatch: pytest.MonkeyPatch, timed: int
) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(run_module, "load_pair", lambda *names, **options: given.update(options))
    LOAD(recipe(run={"timed_seeds": timed}))
    assert given.get("prefix_cache_mib") == (0 if timed else None)


def test_likelihood_counts_up_to_the_first_eos() -> None:
    assert up_to_eos([5, 2, 6, 2], [2]) == [5, 2]
    assert up_to_eos([5, 6], [2]) == [5, 6]


@pytest.mark.slow
def test_the_draft_alone_is_the_draft_and_judged_by_the_target(
    tmp_path: Path, demo_pair: ModelPair
) -> None:
    rows = [
        {"name": "draft", "method": "autoregressive", "models": "draft"},
        {"method": "autoregressive"},
    ]
    run(recipe(run={"seeds": 1, "num_test": 2}, runs=rows, sampling={"temperature": 0.0}), tmp_path)
    task = recipe().tasks["spider"].task
    prompts = {item.id: item.turns[0] for item in task.prompts()}
    alone = ModelPair(demo_pair.models.draft, None, demo_pair.tokenizer)
    samples = [s for s in read_samples(tmp_path) if s.run == "draft"]
    assert samples
    for s in samples:
        options = {"stop": list(task.stops), **s.sampling}
        out = alone.generate(prompts[s.item], "autoregressive", **options)[0]
        assert out.token_ids == s.token_ids[0]
        ids = demo_pair.tokenizer(prompts[s.item]).input_ids
        [nll] = negative_log_likelihoods(demo_pair, [ids], s.token_ids)
        assert s.nll == pytest.approx(nll, rel=1e-4)


def test_perplexity_and_repetition_by_hand() -> None:
    assert perplexity(2 * math.log(3), 2) == pytest.approx(3.0)
    assert perplexity(0.0, 0) is None
    assert repeated_4grams([[1, 2, 3, 4, 1, 2, 3, 4]]) == (1, 5)
    assert repeated_4grams([[7] * 10]) == (6, 7)
    assert repeated_4grams([[1, 2, 3, 4], [1, 2, 3, 4]]) == (0, 2)  # turns are apart
    assert repeated_4grams([[1, 2, 3]]) == (0, 0)


# --- tasks of several turns, prompts without answers -------------------------------------------


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory, demo_pair: ModelPair) -> Path:
    """The folder of a run of MT-Bench, not scored."""
    return decoded(_chats(), tmp_path_factory.mktemp("chats"), demo_pair)


def _chats() -> Recipe:
    run = {"seeds": 1, "num_test": 2, "max_new_tokens": 4}
    return recipe(run=run, runs=BASE["runs"][:2], tasks={"mt_bench": {}})


@pytest.mark.slow
def test_the_second_turn_is_asked_after_the_first_answer(chats: Path, demo_pair: ModelPair) -> None:
    task = recipe(tasks={"mt_bench": {}}).tasks["mt_bench"].task
    items = {item.id: item for item in task.prompts()}
    for s in read_samples(chats):
        assert len(s.answers) == len(s.token_ids) == len(s.stats) == 2
        turns = items[s.item].turns
        chat = [
            {"role": "user", "content": turns[0]},
            {"role": "assistant", "content": s.answers[0]},
            {"role": "user", "content": turns[1]},
        ]
        seed = seed_of(s.seed, s.task, s.item, 1)
        method = s.method["name"]
        out = demo_pair.generate([chat], method, seed=seed, **s.sampling)[0]
        assert out.text == s.answers[1]


def test_prompts_of_one_s_own(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "def f(x):"}\n{"turns": ["Hello", "And?"]}\n')
    own = _own_prompts(path)
    run(own, tmp_path / "out")
    score_folder(own, tmp_path / "out")
    samples = read_samples(tmp_path / "out")
    assert {(s.item, len(s.answers)) for s in samples} == {("1", 1), ("2", 2)}
    assert all(s.nll is not None and s.nll > 0 for s in samples)
    assert {row.score for row in read_scores(tmp_path / "out")} == {None}


def _own_prompts(path: Path) -> Recipe:
    """One run of a few tokens on the prompts of a file."""
    run = {"seeds": 1, "max_new_tokens": 2}
    tasks = {"perplexity": {"data": str(path)}}
    return recipe(run=run, runs=[BASE["runs"][1]], tasks=tasks)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "line 1 is not JSON"),
        ("3", "line 1 is not a JSON object"),
        ('{"turns": []}', "neither a prompt nor turns"),
        ('{"text": "x"}', "neither a prompt nor turns"),
        (None, 'put prompts there, one {"prompt": "…"} object a line'),
    ],
)
def test_prompts_that_are_none(tmp_path: Path, text: str | None, complaint: str) -> None:
    path = tmp_path / "p.jsonl"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=complaint):
        run(recipe(tasks={"perplexity": {"data": str(path)}}), tmp_path / "out")


def test_a_prompt_that_does_not_fit_is_named_before_anything_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a"}\n' + json.dumps({"prompt": "a b " * 2000}) + "\n")
    with pytest.raises(DataError, match=r"item 2 of perplexity has .* does not fit the context"):
        run(recipe(tasks={"perplexity": {"data": str(path)}}), tmp_path / "out")
    assert not (tmp_path / "out" / "samples.jsonl").exists()


# --- choosing ----------------------------------------------------------------------------------


_MTAD_GRID = {"method": "mtad", "grid": {"accept_threshold": [0.0, 0.9]}}
_TUNED_PLAN = {"seeds": 1, "num_dev": 2, "num_test": 1, "max_new_tokens": 4}


def tuned(**changes: Any) -> Recipe:
    return recipe(runs=[BASE["runs"][0], _MTAD_GRID], run=_TUNED_PLAN | changes)


@pytest.fixture(scope="module")
def tuned_once(tmp_path_factory: pytest.TempPathFactory, demo_pair: ModelPair) -> Path:
    """The folder of the tuned run."""
    return decoded(tuned(), tmp_path_factory.mktemp("tuned"), demo_pair)


@pytest.fixture
def tuned_folder(tuned_once: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(tuned_once, tmp_path / "tuned"))


@pytest.mark.slow
def test_options_are_chosen_on_dev_items_and_reported_on_others(tuned_folder: Path) -> None:
    samples = read_samples(tuned_folder)
    dev, test = ([s for s in samples if s.stage == stage] for stage in ("dev", "test"))
    assert {s.run for s in dev} == {"mtad [accept_threshold=0.0]", "mtad [accept_threshold=0.9]"}
    assert not {s.item for s in dev} & {s.item for s in test}
    chosen = read_json(tuned_folder / "chosen.json")["mtad"]["spider"]
    assert chosen["num_points"] == 2
    [options] = {json.dumps(s.method["options"]) for s in test if s.run == "mtad"}
    assert json.loads(options) == chosen["options"]
    assert chosen["run"] == f"mtad [accept_threshold={chosen['options']['accept_threshold']}]"


@pytest.mark.slow
def test_a_choice_stays_when_more_is_decoded(tuned_folder: Path) -> None:
    chosen = read_json(tuned_folder / "chosen.json")
    points = {f"mtad [accept_threshold={t}]" for t in (0.0, 0.9)}
    [other] = points - {chosen["mtad"]["spider"]["run"]}
    chosen["mtad"]["spider"]["run"] = other
    write_json(tuned_folder / "chosen.json", chosen)
    with pytest.raises(DataError, match="rows of run 'mtad' were made with other options"):
        run(tuned(seeds=2), tuned_folder)


@pytest.mark.slow
def test_a_tuned_run_may_be_added_later(tuned_folder: Path) -> None:
    before = read_json(tuned_folder / "chosen.json")
    late = {"name": "late", "method": "mtad", "grid": {"beam_width": [1, 2]}}
    run(recipe(runs=[*BASE["runs"][:1], _MTAD_GRID, late], run=_TUNED_PLAN), tuned_folder)
    after = read_json(tuned_folder / "chosen.json")
    assert after["mtad"] == before["mtad"]
    assert after["late"]["spider"]["num_points"] == 2


def chosen_from(rows: list[tuple[str, float, float]], choose_by: str) -> str:
    """What is chosen from (label, score, decode seconds) rows."""
    grid = {"accept_threshold": [0.0, 0.5, 0.9]}
    table = recipe(run={"num_dev": 3}, runs=[{"method": "mtad", "grid": grid, "choose": choose_by}])
    samples, scores = [], {}
    for number, (threshold, value, seconds) in enumerate(rows):
        label = f"mtad [accept_threshold={threshold}]"
        row = sample(label, str(number), stage="dev", decode_s=seconds)
        samples.append(row)
        scores[row.key] = score(row, value)
    chosen: str = choose(table, samples, scores)["mtad"]["spider"]["run"]
    return chosen.partition("=")[2].removesuffix("]")


def test_quality_first_then_speed() -> None:
    rows = [("0.0", 0.0, 1.0), ("0.5", 1.0, 4.0), ("0.9", 1.0, 3.0)]
    assert chosen_from(rows, "quality") == "0.9"
    assert chosen_from(rows, "speed") == "0.0"


def test_a_point_without_rows_is_no_choice() -> None:
    with pytest.raises(DataError, match=r"accept_threshold=0\.9\] has no quality"):
        chosen_from([("0.0", 0.0, 1.0), ("0.5", 1.0, 4.0)], "quality")


def test_tuning_needs_the_permission_to_score_before_anything_is_decoded(tmp_path: Path) -> None:
    grid = {"accept_threshold": [0.0, 0.9]}
    rows = [{"method": "mtad", "grid": grid}]
    code = recipe(run={"num_dev": 2}, runs=rows, tasks={"human_eval": {}})
    with pytest.raises(IsolationError, match="allow-code-execution"):
        run(code, tmp_path)
    assert not (tmp_path / "samples.jsonl").exists()


# --- scoring -----------------------------------------------------------------------------------


def test_scores_are_made_once_and_only_for_what_is_new(whole: Path, first_seed: Path) -> None:
    assert score_folder(recipe(), first_seed) == 9
    assert score_folder(recipe(), first_seed) == 0
    shutil.copy(whole / "samples.jsonl", first_seed)
    assert score_folder(recipe(), first_seed) == 6
    keys = {s.key for s in read_samples(first_seed)}
    assert {row.key for row in read_scores(first_seed)} == keys


def test_scores_by_another_rule_are_made_again(first_seed: Path) -> None:
    score_folder(recipe(), first_seed)
    lax = recipe(tasks={"spider": {"match": "authors"}})
    assert score_folder(lax, first_seed) == 9
    assert score_folder(lax, first_seed) == 0
    assert len(read_scores(first_seed)) == 9


def test_scores_by_another_version_of_the_rules_are_made_again(
    first_seed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score_folder(recipe(), first_seed)
    monkeypatch.setattr(Spider, "rules", Spider.rules + 1)
    monkeypatch.setattr(Spider, "score", lambda *_: Score(0.25))
    assert score_folder(recipe(), first_seed) == 9
    assert {row.score for row in read_scores(first_seed)} == {0.25}
    assert score_folder(recipe(), first_seed) == 0


def test_scores_of_which_no_rule_is_known_are_made_again(first_seed: Path) -> None:
    score_folder(recipe(), first_seed)
    (first_seed / "scoring.json").unlink()
    assert score_folder(recipe(), first_seed) == 9
    assert len(read_scores(first_seed)) == 9


class Judged(Spider):
    """Spider with a judge that gives up after three answers."""

    num_asked = 0

    def score(self, item: Item, answers: Sequence[str]) -> Score:
        type(self).num_asked += 1
        if type(self).num_asked > 3:
            raise JudgeError("no more")
        return super().score(item, answers)


def test_what_was_judged_before_an_error_is_kept(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "samples.jsonl").write_bytes((whole / "samples.jsonl").read_bytes())
    monkeypatch.setattr("mtad.bench.score.num_cpus", lambda: 1)
    plain = recipe()
    plan = plain.tasks["spider"]
    task = Judged(plan.task.data)
    judged = dataclasses.replace(plain, tasks={"spider": dataclasses.replace(plan, task=task)})
    with pytest.raises(JudgeError, match="no more"):
        score_folder(judged, tmp_path)
    assert len(read_scores(tmp_path)) == 3
    assert score_folder(plain, tmp_path) == 12


@pytest.mark.slow
def test_nothing_is_lost_where_scoring_by_another_rule_is_refused(
    chats: Path, tmp_path: Path
) -> None:
    shutil.copy(chats / "samples.jsonl", tmp_path)
    assert score_folder(_chats(), tmp_path) == 4
    missing = {"judge": "some-model", "judge_api_key_env": "NO_SUCH_VARIABLE"}
    with pytest.raises(JudgeError, match="NO_SUCH_VARIABLE"):
        score_folder(recipe(tasks={"mt_bench": missing}), tmp_path)
    assert len(read_scores(tmp_path)) == 4
    patient = {"judge_timeout_s": 90.0, "judge_max_retries": 9}
    assert score_folder(recipe(tasks={"mt_bench": patient}), tmp_path) == 0


def test_packed_rows_that_are_scored_need_no_unpacking(whole: Path, tmp_path: Path) -> None:
    for name in ("samples.jsonl", "scores.jsonl"):
        packed = lzma.compress((whole / name).read_bytes())
        (tmp_path / f"{name}.xz").write_bytes(packed)
    (tmp_path / "scoring.json").write_bytes((whole / "scoring.json").read_bytes())
    assert score_folder(recipe(), tmp_path) == 0
    with pytest.raises(DataError, match="xz -d"):
        score_folder(recipe(tasks={"spider": {"match": "authors"}}), tmp_path)
    assert not (tmp_path / "scores.jsonl").exists()


def test_scoring_goes_on_after_a_half_written_line(whole: Path, tmp_path: Path) -> None:
    for path in whole.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    scores = (tmp_path / "scores.jsonl").read_bytes()
    (tmp_path / "scores.jsonl").write_bytes(scores[:-25])
    assert score_folder(recipe(), tmp_path) == 1
    assert {r.key: r.score for r in read_scores(tmp_path)} == {
        r.key: r.score for r in read_scores(whole)
    }


def test_samples_of_items_that_the_data_set_lacks_are_refused(whole: Path, tmp_path: Path) -> None:
    text = (whole / "samples.jsonl").read_text()
    (tmp_path / "samples.jsonl").write_text(text.replace('"item": "', '"item": "x'))
    with pytest.raises(DataError, match="the samples were made with another one"):
        score_folder(recipe(), tmp_path)


def test_samples_of_a_task_that_the_recipe_lacks_are_refused(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "samples.jsonl").write_bytes((whole / "samples.jsonl").read_bytes())
    with pytest.raises(DataError, match="not in the recipe"):
        score_folder(recipe(tasks={"mt_bench": {}}), tmp_path)


@pytest.mark.slow
def test_scoring_without_a_judge_or_permission_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "mt_bench").mkdir()
    line = {"question_id": 1, "category": "writing", "turns": ["Hello", "And?"]}
    (tmp_path / "mt_bench" / "question.jsonl").write_text(json.dumps(line) + "\n")
    tasks = {"mt_bench": {"data": str(tmp_path / "mt_bench")}}
    own = recipe(run={"seeds": 1, "max_new_tokens": 2}, tasks=tasks)
    run(own, tmp_path / "out")
    with pytest.raises(JudgeError, match="need a judge"):
        score_folder(own, tmp_path / "out")
    assert not (tmp_path / "out" / "scores.jsonl").exists()


def test_results_and_exports_of_a_whole_run(whole: Path, tmp_path: Path) -> None:
    results = read_results(whole)
    assert [*results.tasks] == ["spider"]
    assert [*results.runs] == ["autoregressive", "mtad", "greedy"]
    assert results.reference == "autoregressive"
    paths = {path.relative_to(tmp_path).as_posix() for path in export(recipe(), results, tmp_path)}
    assert {"spider/gold.sql", "spider/mtad.sql"} <= paths
    gold, found = ((tmp_path / "spider" / f"{n}.sql").read_text() for n in ("gold", "mtad"))
    assert gold.count("\n") == found.count("\n") == 3


# --- the command line --------------------------------------------------------------------------


@pytest.mark.slow
def test_run_score_and_report_on_the_command_line(tmp_path: Path) -> None:
    path, out = tmp_path / "r.toml", tmp_path / "out"
    path.write_text(_toml().replace("num_threads = 1\n", "").replace("seeds = 2", "seeds = 1"))
    done = cli("bench", "run", path, "-o", out)
    assert done.exit_code == 0
    assert done.stdout == ""
    assert f"next: mtad bench score {out}" in " ".join(done.stderr.split())
    assert cli("bench", "score", out, "--spider-match", "authors").exit_code == 0
    assert read_json(out / "scoring.json")["spider"]["match"] == "authors"
    done = cli("bench", "report", out)
    assert done.exit_code == 0
    assert done.stdout.startswith("| run | spider, execution accuracy, % |")
    names = {p.name for p in (out / "report").iterdir()}
    assert {"report.md", "report.html", "table.csv", "table.tex", "exports"} <= names


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("name = ", "is not TOML"),
        ('[run]\nsedes = 1\n[tasks.spider]\n[[runs]]\nmethod = "mtad"', "unknown key 'sedes'"),
    ],
)
def test_a_bad_recipe_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "r.toml"
    path.write_text(text)
    assert complaint in refused("bench", "run", str(path))


def test_the_method_of_a_recipe_may_be_a_module_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "benched_package").mkdir()
    examples = Path(__file__).parents[2] / "examples"
    shutil.copy(examples / "custom_method.py", tmp_path / "benched_package" / "rule.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    Path("r.toml").write_text(_toml().replace('"mtad"', '"benched_package.rule"'))
    message = refused("bench", "run", "r.toml", "--data", "none", code=1)
    assert "none/spider" in message.replace(" ", "")


def test_a_missing_data_set_says_where_to_get_it(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text(_toml())
    message = refused("bench", "run", str(path), "--data", str(tmp_path / "none"), code=1)
    assert "yale-lily.github.io/spider" in message
    assert str(tmp_path / "none" / "spider") in message.replace(" ", "")


@pytest.mark.slow
def test_the_permission_to_run_code_is_given_each_time(tmp_path: Path) -> None:
    text = _toml().replace("[tasks.spider]", "[tasks.human_eval]")
    text = text.replace("seeds = 2", "seeds = 1").replace("num_test = 3", "num_test = 1")
    path, out = tmp_path / "r.toml", tmp_path / "out"
    path.write_text(text.replace("num_threads = 1\n", ""))
    allow = "--allow-code-execution"
    assert cli("bench", "run", path, "-o", out, allow).exit_code == 0
    assert allow in refused("bench", "score", str(out), code=1)
    assert cli("bench", "score", out, allow).exit_code == 0
    assert "allow" not in (out / "recipe.json").read_text()
    path.write_text(text.replace("_eval]", "_eval]\nallow_code_execution = true"))
    assert "cannot give itself the permission" in refused("bench", "run", str(path))


def test_a_folder_that_is_no_result_is_refused(tmp_path: Path) -> None:
    message = refused("bench", "score", str(tmp_path), code=1)
    assert "give a folder that mtad bench run wrote" in message


@pytest.mark.slow
def test_help_needs_no_torch() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from mtad.cli import app; "
        "assert CliRunner().invoke(app, ['bench', 'run', '--help']).exit_code == 0; "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

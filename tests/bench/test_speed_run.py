"""`mtad bench speed` from end to end: rows, report, interruption, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.command import cli, refused
from support.limits import measure_small
from transformers import LlamaForCausalLM

import mtad
from mtad.bench.plan import PairSpec
from mtad.bench.speed import measure as loop
from mtad.bench.speed import models
from mtad.bench.speed.baseline import ASSISTED, PLAIN, Transformers, left_padded
from mtad.bench.speed.models import Loaded, models_for
from mtad.bench.speed.plan import SpeedPlan
from mtad.bench.speed.prompts import encoded, heldout_prompts
from mtad.bench.speed.report import write_speed
from mtad.bench.speed.rows import Row, read_speed_rows
from mtad.bench.speed.runs import Ours, Sampling
from mtad.bench.speed.summary import read_speed
from mtad.demo import DRAFT_PATH, TARGET_PATH
from mtad.errors import DataError, PromptError
from mtad.measure.meter import Meter
from mtad.testing import widen

NO_METER = Meter(None, "none here")
SHORT = Sampling(max_new_tokens=6, ignore_eos=True)
METHODS = (("autoregressive", mtad.Autoregressive()), ("mtad", mtad.MTAD(num_draft_tokens=2)))
FLAGS = ["--num-prompts", "1", "--repeats", "1", "--max-new-tokens", "4", "--ignore-eos"]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits of small buffers and eager iterations: what needs recordings is tested elsewhere."""
    measure_small(monkeypatch)
    monkeypatch.setattr(loop, "_record_at_once", lambda pair: None)


@pytest.fixture
def plan() -> SpeedPlan:
    return SpeedPlan(methods=METHODS, num_prompts=2, repeats=2, sampling=SHORT)


@pytest.fixture
def run(loaded: Loaded, tmp_path: Path) -> Callable[..., list[Row]]:
    """Measures a plan with the pair that is loaded; the rows."""

    def measured(plan: SpeedPlan, **options: Any) -> list[Row]:
        loop.measure(plan, tmp_path, load_one=lambda spec, context: loaded, **options)
        return read_speed_rows(tmp_path)

    return measured


@pytest.mark.slow
def test_every_run_decodes_every_prompt_in_turn(
    run: Callable[..., list[Row]], plan: SpeedPlan, tmp_path: Path
) -> None:
    reported: list[tuple[str, int, int]] = []
    rows = run(plan, on_progress=lambda *what: reported.append(what))
    assert len(rows) == 4 * 2 * 2 and not any(r.error for r in rows)
    assert [r.run for r in rows[:5]] == ["autoregressive", "mtad", PLAIN, ASSISTED, "mtad"]
    assert {r.measured.num_output_tokens for r in rows if r.measured} == {6}
    assert reported[-1] == ("done", 16, 16)
    for r in rows:
        assert r.measured is not None
        assert 0 < r.measured.decode_s < r.measured.wall_s
    assert {json.dumps(r.seed) for r in rows if r.batch == 1 and r.repeat == 1} == {"1001000"}
    found = read_speed(tmp_path)
    assert found.conditions[0]["pair"] == "demo"
    assert {r.conditions for r in rows} == {found.conditions[0]["id"]}


@pytest.mark.slow
def test_iterations_are_split_and_have_a_limit(
    run: Callable[..., list[Row]], plan: SpeedPlan, tmp_path: Path
) -> None:
    run(replace(plan, repeats=1))
    found = read_speed(tmp_path)
    for name in ("autoregressive", "mtad"):
        result = found.main[name]
        assert sum(result.parts_s.values()) == pytest.approx(result.iteration_s)
        assert result.outside_s is not None and result.iteration_s is not None
        assert 0 < result.outside_s < result.iteration_s
        assert result.fraction is not None and result.fraction > 0
    assert found.main["autoregressive"].mean_acceptance_length == 1.0
    assert (found.main["mtad"].mean_acceptance_length or 0) > 1
    names = {p.name for p in write_speed(found, tmp_path)}
    assert {"speed.md", "speed.csv", "iteration.png", "iteration.svg"} == names


@pytest.mark.slow
def test_a_folder_with_rows_is_left_alone(
    run: Callable[..., list[Row]], plan: SpeedPlan, tmp_path: Path
) -> None:
    before = run(replace(plan, repeats=1, num_prompts=1))
    with pytest.raises(DataError, match="has rows already"):
        run(plan)
    assert read_speed_rows(tmp_path) == before


@pytest.mark.slow
def test_an_interruption_keeps_the_rows(
    run: Callable[..., list[Row]], plan: SpeedPlan, tmp_path: Path
) -> None:
    def interrupt(text: str, done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(plan, on_progress=interrupt)
    assert len(read_speed_rows(tmp_path)) == 5
    found = read_speed(tmp_path)
    assert found.main["mtad"].tokens_per_s is not None
    assert write_speed(found, tmp_path)


@pytest.mark.slow
def test_what_cannot_be_decoded_becomes_a_row_with_the_reason(
    run: Callable[..., list[Row]], plan: SpeedPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> Any:
        raise PromptError("too long")

    monkeypatch.setattr(Transformers, "measure", fail)
    rows = run(replace(plan, num_prompts=1, repeats=1))
    assert {r.run: r.error for r in rows if r.error} == {PLAIN: "too long", ASSISTED: "too long"}
    assert all(r.measured is None for r in rows if r.error)


@pytest.mark.slow
def test_scaling_gives_rows_along_its_axes(
    run: Callable[..., list[Row]],
    plan: SpeedPlan,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = "mtad.bench.speed.plan"
    for name, values in (("BATCHES", (1, 3)), ("CONTEXTS", (64, 128)), ("WIDTHS", (1, 2))):
        monkeypatch.setattr(f"{module}.{name}", values)
    axes = ("width", "context", "batch")
    few = replace(SHORT, max_new_tokens=3)
    plan = replace(plan, repeats=1, num_prompts=1, sampling=few, against=())
    rows = run(replace(plan, scaling=axes))
    assert [*dict.fromkeys(r.axis for r in rows)] == ["", "batch", "context", "width"]
    batch = [r.measured for r in rows if r.axis == "batch" and r.at == 3]
    assert [m.num_rows for m in batch if m] == [3, 3]
    assert [m.num_output_tokens for m in batch if m] == [9, 9]
    context = [r.measured for r in rows if r.axis == "context" and r.at == 128]
    assert [m.num_prompt_tokens + m.num_output_tokens for m in context if m] == [128, 128]
    wide = [r.method for r in rows if r.axis == "width" and r.at == 2]
    assert [m["options"]["beam_width"] for m in wide if m] == [2]
    names = {p.name for p in write_speed(read_speed(tmp_path), tmp_path)}
    assert {"scaling-batch.png", "scaling-context.svg", "scaling-width.png"} <= names


# -- the runs ---------------------------------------------------------------------------


def prompt_ids(loaded: Loaded) -> list[int]:
    return loaded.pair.tokenizer("SQL: SELECT").input_ids  # type: ignore[misc, no-any-return]


@pytest.mark.slow
def test_texts_end_where_they_end_by_themselves(loaded: Loaded) -> None:
    """Greedy texts of both engines stop at the same EOS, so they count the same tokens."""
    prompts = encoded(loaded.pair, heldout_prompts(1))
    greedy = Sampling(temperature=0.0, max_new_tokens=60)
    ours = Ours("mtad", loaded, NO_METER, mtad.Autoregressive()).measure(prompts, 0, greedy)
    for is_assisted in (False, True):
        theirs = Transformers("t", loaded, NO_METER, is_assisted).measure(prompts, 0, greedy)
        assert theirs.num_output_tokens == ours.num_output_tokens < 60
        assert theirs.num_decoded == theirs.num_output_tokens - 1
    full = replace(greedy, ignore_eos=True)
    theirs = Transformers("t", loaded, NO_METER, False).measure(prompts, 0, full)
    assert theirs.num_output_tokens == 60


def test_transformers_decodes_batches(loaded: Loaded) -> None:
    prompts = [prompt_ids(loaded), prompt_ids(loaded)[:2]]
    found = Transformers("t", loaded, NO_METER, False).measure(prompts, 0, SHORT)
    assert (found.num_rows, found.num_output_tokens, found.num_iterations) == (2, 12, 5)
    assert found.observed is not None
    assert [f.num_rows for f in found.observed.forwards] == [2]


def test_prompts_of_a_batch_end_together() -> None:
    padded = left_padded([[5, 6, 7], [8]], torch.device("cpu"))
    assert padded["input_ids"].tolist() == [[5, 6, 7], [0, 0, 8]]
    assert padded["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]


@pytest.mark.slow
def test_every_text_has_its_seed_and_the_method_no_guard(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []
    generate = mtad.ModelPair.generate

    def recording(*arguments: Any, **options: Any) -> Any:
        asked.append(options)
        return generate(*arguments, **options)

    monkeypatch.setattr(mtad.ModelPair, "generate", recording)
    run = Ours("mtad", loaded, NO_METER, mtad.MTAD())
    counts = [run.measure([prompt_ids(loaded)] * 2, 3, SHORT).num_accepted for _ in range(2)]
    assert counts[0] == counts[1]
    assert [options["seed"] for options in asked] == [[3, 4], [3, 4]]
    assert {options["guard"] for options in asked} == {False}


@pytest.mark.slow
def test_a_widened_pair_has_the_tokenizer_and_the_ends_of_the_embedded_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Any] = []

    def small(name: str, **options: Any) -> tuple[LlamaForCausalLM, LlamaForCausalLM]:
        asked.append((name, options["context"], options["dtype"]))
        target, draft = (LlamaForCausalLM.from_pretrained(p) for p in (TARGET_PATH, DRAFT_PATH))
        shape = {"hidden_size": 320, "intermediate_size": 704, "num_hidden_layers": 4}
        return widen(target, **shape, context=options["context"]), draft

    monkeypatch.setattr(models, "widened_pair", small)
    pair, plain = models_for(PairSpec("1b"), context=2048)
    assert asked == [("1b", 2048, torch.bfloat16)] * 2
    assert pair.models.target is not plain.models.target
    assert plain.models.target.config.hidden_size == 320
    assert pair.models.eos_token_ids == mtad.load_pair("demo").models.eos_token_ids
    assert pair.generate("SELECT", max_new_tokens=2)[0].text


# -- the command ------------------------------------------------------------------------


@pytest.fixture
def no_loading(monkeypatch: pytest.MonkeyPatch, loaded: Loaded) -> None:
    """The command takes the pair that is loaded."""
    original = loop.measure
    monkeypatch.setattr(
        loop,
        "measure",
        lambda plan, folder, prompts, on_progress: original(
            plan, folder, prompts, on_progress, lambda spec, context: loaded
        ),
    )


@pytest.mark.slow
@pytest.mark.usefixtures("no_loading")
def test_the_command_measures_and_reports_again(tmp_path: Path) -> None:
    prompts, method = tmp_path / "prompts.jsonl", tmp_path / "mine.toml"
    prompts.write_text('{"prompt": "SELECT"}\n{"prompt": "def"}\n')
    method.write_text('method = "mtad"\n[options]\nnum_draft_tokens = 2\n')
    output = tmp_path / "out"
    found = cli(
        *("bench", "speed", "-m", "autoregressive", "-m", method, "--prompt-file", prompts),
        *("--output", output, *FLAGS),
    )
    assert found.exit_code == 0, found.stderr
    assert "| mine |" in found.stdout and "mine: " in found.stdout
    rows = read_speed_rows(output)
    assert [r.run for r in rows] == ["autoregressive", "mine", PLAIN, ASSISTED]
    assert rows[1].method is not None and rows[1].method["options"]["num_draft_tokens"] == 2
    before = (output / "speed.md").read_text()
    (output / "speed.md").unlink()
    again = cli("bench", "speed", "--report-only", output)
    assert again.exit_code == 0 and again.stdout == found.stdout
    assert (output / "speed.md").read_text() == before


@pytest.mark.slow
@pytest.mark.usefixtures("no_loading")
def test_ctrl_c_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decode, calls = loop.measured, []

    def measured(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:  # after one row
            raise KeyboardInterrupt
        return decode(*arguments)

    monkeypatch.setattr(loop, "measured", measured)
    found = cli(
        *("bench", "speed", "-m", "autoregressive", "-m", "mtad", "--output", tmp_path, *FLAGS)
    )
    assert found.exit_code == 130
    assert f"mtad bench speed --report-only {tmp_path}" in found.stderr.replace("\n", " ")
    assert len(read_speed_rows(tmp_path)) == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--pair", "2b"], "--pair is '2b'; it must be demo, 1b, 8b"),
        (["--pair", "1b", "--target-model", "x/y"], "give --pair or --target-model, and not both"),
        (["--draft-model", "x/y"], "--draft-model needs --target-model"),
        (["--target-model", "x/y"], "speculative_sampling needs a draft model"),
        (["-m", "magic"], "there is no method 'magic'"),
        (["-m", "mtad", "-m", "mtad"], "mtad is given twice"),
        (["-m", "nowhere.toml"], "nowhere.toml cannot be read"),
        (["--scaling", "batch,speed"], "scaling is 'speed'; it must be one of batch"),
        (["--temperature", "-1"], "temperature is -1.0"),
        (
            ["--dtype", "float3"],
            "dtype is 'float3' (did you mean 'float32'?); it must be one of auto",
        ),
        (["--num-prompts", "999"], "--num-prompts is 999; there are"),
    ],
)
def test_wrong_options_are_refused(flags: list[str], message: str, tmp_path: Path) -> None:
    assert message in refused("bench", "speed", "--output", str(tmp_path), *flags)
    assert not list(tmp_path.iterdir())


def test_a_report_needs_rows(tmp_path: Path) -> None:
    assert "there is no" in refused("bench", "speed", "--report-only", str(tmp_path), code=1)

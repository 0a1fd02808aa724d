"""`mtad bench speed --against llama.cpp`: process, rows and table; and the real program."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.command import refused
from support.limits import measure_small

import mtad
from mtad.bench.plan import PairSpec
from mtad.bench.speed import llama_cpp
from mtad.bench.speed import measure as loop
from mtad.bench.speed.cost import ModelCost, PairCost
from mtad.bench.speed.limits import Limits
from mtad.bench.speed.llama_cpp import VARIANTS, LlamaCpp, Variant
from mtad.bench.speed.llama_engine import PACKAGE, LlamaEngine
from mtad.bench.speed.models import Loaded
from mtad.bench.speed.others import fastest_lossless, other_table, other_verdicts, shared_tokens
from mtad.bench.speed.plan import SpeedPlan, experiments
from mtad.bench.speed.prompts import encoded, heldout_prompts
from mtad.bench.speed.rows import Measured, Row, read_speed_rows
from mtad.bench.speed.runs import Sampling
from mtad.bench.speed.summary import Speed, read_speed
from mtad.errors import MtadError
from mtad.measure.meter import Meter

FAKE = """
import json, sys
print(json.dumps({"ready": True, "version": "v0 " + sys.argv[-1]}), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    if asked["seed"] == 66: sys.exit("out of memory")
    if asked["seed"] == 67: print(json.dumps({"error": "no slot"}), flush=True); continue
    assert open(asked["model"], "rb").read(4) == b"GGUF"
    tokens = [7] * asked["max_new_tokens"]
    print(json.dumps({"tokens": tokens, "prefill_s": 1.0, "decode_s": 2.0, "forward_s": 1.5,
                      "num_accepted": 2 * (asked["speculation"] == "lookup")}), flush=True)
"""
GREEDY = Sampling(temperature=0, top_k=0, top_p=1, max_new_tokens=6, ignore_eos=True)
METHODS = (("autoregressive", mtad.Autoregressive()), ("mtad", mtad.MTAD(num_draft_tokens=2)))
TURNS = [[[1, 2, 3]]]


def fake(num_threads: int, text: str = FAKE) -> LlamaEngine:
    return LlamaEngine(num_threads, command=(sys.executable, "-c", text))


@pytest.fixture
def engine() -> Iterator[LlamaEngine]:
    found = fake(3)
    yield found
    found.close()


def decoder(loaded: Loaded, engine: LlamaEngine, variant: Variant) -> LlamaCpp:
    return LlamaCpp(variant.label, loaded, Meter(None, "none here"), variant, engine)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    measure_small(monkeypatch)
    monkeypatch.setattr(loop, "_record_at_once", lambda pair: None)
    monkeypatch.setattr(llama_cpp, "PAUSE_S", 0.0)


# -- the process ------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_is_timed_by_the_process(loaded: Loaded, engine: LlamaEngine) -> None:
    assert engine.version == "v0 3"
    found = decoder(loaded, engine, Variant("Q8_0", "lookup")).measure([[1, 2, 3]], 0, GREEDY)
    assert (found.prefill_s, found.decode_s, found.wall_s, found.forward_s) == (1.0, 2.0, 3.0, 1.5)
    assert (found.num_prompt_tokens, found.num_output_tokens, found.num_decoded) == (3, 6, 5)
    assert (found.num_iterations, found.num_accepted, found.texts) == (3, 2, [[7] * 6])
    drawn = replace(GREEDY, temperature=1.0)
    assert decoder(loaded, engine, Variant("Q8_0", "")).measure([[1]], 0, drawn).texts == []


@pytest.mark.slow
def test_a_file_is_written_once_and_goes_with_the_engine(loaded: Loaded) -> None:
    engine = fake(1)
    path = engine.file(loaded.plain, "draft", "Q8_0")
    written = path.stat().st_mtime_ns
    assert engine.file(loaded.plain, "draft", "Q8_0").stat().st_mtime_ns == written
    engine.close()
    assert not path.parent.exists()


@pytest.mark.slow
def test_what_goes_wrong_is_said(loaded: Loaded, engine: LlamaEngine) -> None:
    run = decoder(loaded, engine, Variant("Q8_0", ""))
    with pytest.raises(MtadError, match=r"llama\.cpp did not decode: no slot"):
        run.measure([[1]], 67, GREEDY)
    for _ in range(2):  # the second time the pipe is closed
        with pytest.raises(MtadError, match="ended with status 1: out of memory"):
            run.measure([[1]], 66, GREEDY)


def test_without_node_or_package_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    missing = 'print(\'{"error": "Cannot find", "code": "ERR_MODULE_NOT_FOUND"}\')'
    with pytest.raises(MtadError, match=r"is not in .*npm install node-llama-cpp in one of them"):
        fake(1, missing)
    with pytest.raises(MtadError, match="node-llama-cpp does not start: NoBinaryFoundError"):
        fake(1, 'print(\'{"error": "NoBinaryFoundError", "code": "Error"}\')')
    monkeypatch.setattr(shutil, "which", lambda name: None)
    flags = ["--against", "llama.cpp", "--output", str(tmp_path)]
    assert "install Node.js 20 or newer" in refused("bench", "speed", *flags, code=1)


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not on the path")
def test_node_finds_no_package_in_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(MtadError, match=f"{PACKAGE}, which is not in {tmp_path}"):
        LlamaEngine(1, tmp_path)


# -- the comparison ---------------------------------------------------------------------


def test_what_takes_part_follows_from_the_draft() -> None:
    def labels(has_assistant: bool, **options: Any) -> list[str]:
        plan = SpeedPlan(methods=METHODS, **options)
        points = experiments(plan, [[1, 2]], None, has_assistant)[0].points
        return [p.label for p in points if p.method is None]

    every = [*VARIANTS]
    assert every[:2] == ["llama.cpp Q8_0", "llama.cpp Q4_1"] and len(every) == 9
    assert labels(True, against=("llama.cpp",)) == every
    assert labels(False, against=("llama.cpp",)) == every[:6]
    assert labels(True, against=()) == []
    alone = SpeedPlan(PairSpec("folder"), METHODS[:1], against=("llama.cpp",))
    points = experiments(alone, [[1, 2]], None)[0].points
    assert [p.label for p in points][1:] == every[:6]


def test_a_plan_refuses_what_llama_cpp_cannot_do() -> None:
    with pytest.raises(ValueError, match=r"against is 'llamacpp'.*transformers, llama\.cpp"):
        SpeedPlan(against=("llamacpp",))
    with pytest.raises(ValueError, match=r"--max-batch-size is 4, and llama\.cpp decodes single"):
        SpeedPlan(against=("llama.cpp",), max_batch_size=4)
    assert "against is 'vllm'" in refused("bench", "speed", "--against", "vllm")


@pytest.mark.slow
def test_it_decodes_in_turn_with_the_methods(
    loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {label: VARIANTS[label] for label in ("llama.cpp Q8_0", "llama.cpp Q8_0 draft")}
    monkeypatch.setattr("mtad.bench.speed.plan.VARIANTS", few)
    plan = SpeedPlan(
        methods=METHODS, num_prompts=1, repeats=2, sampling=GREEDY, against=("llama.cpp",)
    )
    loop.measure(plan, tmp_path, load_one=lambda spec, context: loaded, start=fake)
    rows = read_speed_rows(tmp_path)
    assert [r.run for r in rows] == [
        *("autoregressive", "mtad", *few),
        *("mtad", *few, "autoregressive"),
    ]
    assert not any(r.error for r in rows)
    assert all(r.measured and len(r.measured.texts[0]) == 6 for r in rows)
    assert read_speed(tmp_path).conditions[0]["llama_cpp"].startswith("v0")


# -- the report -------------------------------------------------------------------------


def took(seconds: float, texts: list[list[int]], **changed: Any) -> Measured:
    """Ten tokens in that time, and as many iterations."""
    whole = Measured(
        num_rows=1,
        num_prompt_tokens=4,
        num_output_tokens=10,
        num_iterations=10,
        num_row_steps=10,
        num_accepted=0,
        prefill_s=1.0,
        decode_s=seconds,
        num_decoded=10,
        wall_s=1 + seconds,
        texts=texts,
    )
    return replace(whole, **changed)


@pytest.fixture
def speed() -> Speed:
    """Plain decoding takes 4 s, block verification 2 s, MTAD 1 s; llama.cpp 6, 5 and 3 s."""
    same, other = [[1, 2, 3]], [[1, 2, 9]]
    runs: dict[str, Callable[[int], Measured]] = {
        "autoregressive": lambda i: took(4.0 + i, same),
        "block_verification": lambda i: took(2.0, same),
        "mtad": lambda i: took(1.0, same),
        "llama.cpp Q8_0": lambda i: took(6.0, same, forward_s=5.0),
        "llama.cpp Q4_0": lambda i: took(5.0, other, forward_s=4.0),
        "llama.cpp Q4_0 lookup": lambda i: took(
            3.0, other, forward_s=2.0, num_row_steps=5, num_accepted=5
        ),
    }
    rows = [
        Row("", "", "demo", run, method_of(run), 0, repeat, 0, make(repeat))
        for repeat in (0, 1)
        for run, make in runs.items()
    ]
    cost = ModelCost(1, 1, 1, 1, 1)
    limit = Limits("cpu", "float32", 1, 1000.0, 1100, 500.0, 1e6)
    return Speed(rows, {"demo": PairCost(limit, {"target": cost, "draft": cost})}, [])


def method_of(run: str) -> dict[str, Any] | None:
    return None if run.startswith("llama") else {"name": run, "options": {}}


def test_the_fastest_lossless_run_is_compared(speed: Speed) -> None:
    best = fastest_lossless(speed)
    assert best is not None and best.row.run == "block_verification"  # mtad is faster, and lossy


def test_the_table_has_times_against_every_run(speed: Speed) -> None:
    table = other_table(speed)
    cells = {row[0]: dict(zip(table.headers, row, strict=True)) for row in table.rows}
    assert [*cells] == ["llama.cpp Q8_0", "llama.cpp Q4_0", "llama.cpp Q4_0 lookup"]
    lookup = cells["llama.cpp Q4_0 lookup"]
    assert lookup["decode: block_verification ×"] == "1.50"
    assert lookup["models only: block_verification ×"] == "1.00"
    assert lookup["end to end: block_verification ×"] == "1.33"
    assert lookup["decode: autoregressive ×"] == "0.67 [0.60, 0.75]"
    assert (lookup["acceptance"], lookup["same tokens"]) == ("2.00", "2.0")
    assert (cells["llama.cpp Q8_0"]["acceptance"], cells["llama.cpp Q8_0"]["same tokens"]) == (
        "–",
        "3.0",
    )


def test_it_says_who_is_faster_plain_and_at_its_best(speed: Speed) -> None:
    assert [*other_verdicts(speed)] == [
        "autoregressive is within the spread, 1.11 [1.00, 1.25] times as fast as the fastest plain "
        "run of llama.cpp, llama.cpp Q4_0",
        "block_verification is faster, 1.50 times as fast as the fastest run of llama.cpp, "
        "llama.cpp Q4_0 lookup",
    ]
    rows = [replace(r, measured=took(9.0, [])) if r.method else r for r in speed.rows]
    assert all("is slower, 0." in line for line in other_verdicts(replace(speed, rows=rows)))


def test_without_greedy_texts_nothing_is_said_of_them(speed: Speed) -> None:
    rows = [replace(r, measured=replace(r.measured, texts=[])) for r in speed.rows if r.measured]
    drawn = replace(speed, rows=rows)
    assert shared_tokens(drawn, drawn.main["llama.cpp Q8_0"]) is None


# -- the real program -------------------------------------------------------------------


@pytest.mark.slow
def test_llama_cpp_writes_what_the_target_writes(loaded: Loaded) -> None:
    """In 8 bits the greedy text of this prompt is that of the plain model."""
    folder = Path(os.environ.get("MTAD_LLAMA_CPP", "."))
    try:
        engine = LlamaEngine(1, folder)
    except MtadError as error:
        pytest.skip(f"{error}; MTAD_LLAMA_CPP is the folder where it is")
    [prompt] = encoded(loaded.pair, heldout_prompts(1))
    long = replace(GREEDY, max_new_tokens=24)
    [plain] = loaded.plain.generate(
        [prompt], mtad.Autoregressive(), temperature=0, max_new_tokens=24, ignore_eos=True
    )
    try:
        for speculation in llama_cpp.SPECULATIONS:
            run = decoder(loaded, engine, Variant("Q8_0", speculation))
            run.warm_up([[prompt]], [0], long)
            found = run.measure([prompt], 0, long)
            assert found.texts == [plain.token_ids]
            assert found.forward_s is not None and 0 < found.forward_s < found.decode_s
            assert (found.num_accepted > 0) == (speculation == "draft") or speculation == "lookup"
    finally:
        engine.close()

"""What the documentation says of the real pair: nothing without figures, else what its rows say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.benchmarks import BASE, program, sample, score

from mtad.bench.files import CONDITIONS, RECIPE, SAMPLES, SCORES, write_json
from mtad.bench.report import Summary
from mtad.bench.results import read_results

RECIPE_PATH = "recipes/tiny.toml"
COMMAND = f"mtad bench run {RECIPE_PATH}"
HERE = {
    "id": "c1",
    "device": "cpu",
    "cpu": "EPYC",
    "num_threads": 1,
    "num_cpus": 2,
    "target": {"dtype": "bfloat16"},
}
RIGHT = {
    "autoregressive": 4,
    "autoregressive, greedy": 11,
    "autoregressive, temperature 0.5": 11,
    "speculative_sampling": 4,
    "speculative_sampling, greedy": 11,
    "mtjd": 4,
    "mtad": 10,
}
"""Of twelve answers."""
NLL = {"autoregressive": 30.0, "autoregressive, temperature 0.5": 12.0, "mtad": 21.0}
TEMPERATURES = {"autoregressive, temperature 0.5": 0.5}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a recipe and its rows: mtad takes half the time of the others."""
    recipe = tmp_path / RECIPE_PATH
    recipe.parent.mkdir()
    recipe.write_text("# Twelve questions,\n# asked once.\n#\n#   mtad bench\n", encoding="utf-8")
    folder = tmp_path / "results" / "tiny"
    folder.mkdir(parents=True)
    rows = [
        sample(
            run=run,
            item=f"i{n:02d}",
            nll=NLL.get(run, 10.0),
            sampling={"temperature": TEMPERATURES.get(run, 0.0 if "greedy" in run else 1.0)},
            method={"name": run.partition(",")[0], "options": {}, "lossless": run != "mtad"},
            **_faster(run),
        )
        for run in RIGHT
        for n in range(12)
    ]
    scores = [score(row, float(int(row.item[1:]) < RIGHT[row.run])) for row in rows]
    for name, lines in {SAMPLES: rows, SCORES: scores}.items():
        text = "".join(json.dumps(line.as_dict()) + "\n" for line in lines)
        (folder / name).write_text(text, encoding="utf-8")
    (folder / CONDITIONS).write_text(json.dumps(HERE) + "\n", encoding="utf-8")
    write_json(folder / RECIPE, BASE)
    monkeypatch.setattr(program("real_pair"), "ROOT", tmp_path)
    return tmp_path


def _faster(run: str) -> dict[str, Any]:
    return {"steps": 4, "drafted": 12, "accepted": 6, "decode_s": 1.0} if run == "mtad" else {}


def figures(root: Path) -> Any:
    folder = root / "results" / "tiny"
    return program("headline").of_folder("smollm2", folder, COMMAND, root)


def test_without_figures_nothing_is_said() -> None:
    other = {"embedded.mtad.spider": {"value": 1.0, "run": "mtad", "rows": "x/y", "command": ""}}
    assert program("real_pair").readme_section(other) == ""
    assert program("real_pair").results_sections(other) == []


def test_readme_has_the_columns_of_the_real_pair(root: Path) -> None:
    text = program("real_pair").readme_section(figures(root))
    assert text.startswith("## Results on SmolLM2-135M\n")
    assert "12 questions of Spec-Bench" in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert table[0] == "| run | mean acceptance length | tokens/s, relative |"
    assert "| mtad | 2.50 [2.50, 2.50] | 2.00 [2.00, 2.00] |" in table
    assert len(table) == 2 + len(RIGHT)


def test_results_have_a_section_per_folder_and_the_claims(root: Path) -> None:
    title, heading, about, table, *study, claims_title, claims = program(
        "real_pair"
    ).results_sections(figures(root))
    assert (title, heading) == ("# Results on SmolLM2-135M", "## tiny")
    assert about == (
        f"Twelve questions, asked once. `{COMMAND}`: 12 questions of spider; 2 seeds. "
        "cpu: EPYC, 1 thread of 2, bfloat16. [Rows and conditions](../results/tiny)."
    )
    assert table.startswith("| run | spider")
    assert claims_title.startswith("## ") and "| the paper | here |" in claims
    assert study[0] == "## Against greedy speculative decoding" and "not measured" in study[1]
    assert "| mtad | −8.3 [" in study[2] and "| autoregressive | −58.3 [" in study[2]
    assert "| speculative_sampling | " not in study[2]


def test_claims_are_answered_by_paired_intervals(root: Path) -> None:
    rows = Summary(read_results(root / "results" / "tiny"))
    found = dict(program("claims").claims(rows, rows))
    sampling = found["MTAD is better than sampling"]
    assert sampling.startswith("**Yes.** Mean quality 83.3 against 33.3: +50.0 [+")
    greedy = found["… than greedy speculative decoding, which is lossless"]
    assert greedy.startswith("**Not shown.**") and "−8.3 [" in greedy
    (equal,) = (claim for claim in found if "equal perplexity" in claim)
    assert equal.endswith("which is here 0.75 [0.75, 0.75]"), "half way from 0.5 to 1 in nats"
    assert found[equal].startswith("**Yes.** Mean quality +20.8 [+"), "10 against 7.5 of 12"
    assert (
        "**Not shown.** Mean quality 33.3 against 33.3"
        in found["joint decoding is better: MTJD's blocks against tokens one by one"]
    )
    assert found["MTAD is faster than speculative sampling (1.42 times)"] == (
        "**Yes.** 2.00 [2.00, 2.00] times its tokens/s, decode only."
    )


def test_tables_by_category_are_of_all_its_rows(root: Path) -> None:
    folder = root / "results" / "tiny"
    assert program("categories").by_category(read_results(folder)) == []
    lines = (folder / SCORES).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    for row in rows:
        row["detail"] = {"category": "qa" if row["item"] < "i06" else "rag"}
    (folder / SCORES).write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    lengths, speeds = program("categories").by_category(read_results(folder))
    assert (lengths.headers, lengths.rows) == (["run", "qa", "rag"], [["mtad", "2.50", "2.50"]])
    assert {row[0]: row[1:] for row in speeds.rows}["mtad"] == ["2.00", "2.00"]
    assert len(speeds.rows) == len(RIGHT)


def test_only_runs_that_are_there_are_spoken_of(root: Path) -> None:
    assert program("claims").claims(None, None) == []

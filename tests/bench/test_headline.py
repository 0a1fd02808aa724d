"""benchmarks/headline.json: filled from rows, found wrong when changed by hand, read by tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.benchmarks import BASE, program, sample, score

from mtad.bench.files import CONDITIONS, RECIPE, SAMPLES, SCORES, write_json
from mtad.errors import DataError

ROOT = Path(__file__).resolve().parents[2]
COMMAND = "mtad bench run benchmarks/recipes/tiny.toml"
RUNS = ("autoregressive", "mtad", "greedy")


def headline() -> Any:
    return program("headline")


def write_results(folder: Path, right: int = 9) -> Path:
    """Twelve items by three runs; of mtad's answers, `right` are, and it takes half the time."""
    rows = [
        sample(
            run=run,
            item=f"i{n:02d}",
            **(
                {"steps": 4, "drafted": 12, "accepted": 6, "decode_s": 1.0} if run == "mtad" else {}
            ),
        )
        for run in RUNS
        for n in range(12)
    ]
    scores = [score(row, float(row.run != "mtad" or int(row.item[1:]) < right)) for row in rows]
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in {SAMPLES: rows, SCORES: scores}.items():
        text = "".join(json.dumps(line.as_dict()) + "\n" for line in lines)
        (folder / name).write_text(text, encoding="utf-8")
    (folder / CONDITIONS).write_text(json.dumps({"id": "c1"}) + "\n", encoding="utf-8")
    write_json(folder / RECIPE, BASE)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_results(tmp_path / "results" / "tiny")


def figures(folder: Path, pair: str = "tiny") -> dict[str, Any]:
    return dict(headline().of_folder(pair, folder, COMMAND, folder.parents[1]))


def test_a_figure_has_value_interval_unit_command_and_rows(folder: Path) -> None:
    found = figures(folder)
    entry = found["tiny.mtad.spider"]
    assert (entry["value"], entry["unit"], entry["num"]) == (75.0, "%", 12)
    assert entry["low"] < 75.0 < entry["high"]
    assert entry["command"] == COMMAND
    assert entry["rows"] == "results/tiny/samples.jsonl"
    assert entry["run"] == "mtad"


def test_figures_are_those_of_the_rows(folder: Path) -> None:
    found = figures(folder)
    assert found["tiny.mtad.acceptance_length"]["value"] == 2.5
    assert found["tiny.mtad.draft_acceptance_rate"]["value"] == 0.5
    assert found["tiny.mtad.tokens_per_s_relative"]["value"] == 2.0
    assert found["tiny.mtad.tokens_per_s_relative"]["unit"] == "times autoregressive"
    plain = found["tiny.autoregressive.tokens_per_s_relative"]
    assert (plain["value"], plain["low"], plain["high"]) == (1.0, None, None)
    assert "tiny.autoregressive.acceptance_length" not in found
    assert not [name for name in found if name.endswith("joules_per_token")]


def test_making_them_again_finds_what_was_changed_by_hand(folder: Path) -> None:
    kept, root = figures(folder), folder.parents[1]
    assert headline().again(kept, root) == kept
    forged = {**kept, "tiny.mtad.spider": {**kept["tiny.mtad.spider"], "value": 99.0}}
    assert headline().text(headline().again(forged, root)) != headline().text(forged)
    added = {**kept, "tiny.mtad.gsm8k": kept["tiny.mtad.spider"]}
    assert "tiny.mtad.gsm8k" not in headline().again(added, root)


@pytest.mark.slow
def test_a_folder_takes_the_place_of_the_one_before_it(folder: Path, tmp_path: Path) -> None:
    other = write_results(tmp_path / "results" / "newer", right=12)
    kept = {**figures(folder), **figures(folder, "another")}
    found = headline().put(kept, figures(other))
    assert found["tiny.mtad.spider"]["value"] == 100.0
    assert found["another.mtad.spider"]["value"] == 75.0
    assert {e["rows"] for name, e in found.items() if name.startswith("tiny.")} == {
        "results/newer/samples.jsonl"
    }


def test_text_is_json_with_one_figure_a_line(folder: Path) -> None:
    found = figures(folder)
    text = headline().text(found)
    assert json.loads(text) == found
    assert len(text.splitlines()) == len(found) + 2


def test_the_table_shows_the_figures(folder: Path) -> None:
    rows = program("headline_tables").results_table(figures(folder), "tiny")
    assert [row["run"] for row in rows] == [*RUNS]
    assert rows[1]["spider, execution accuracy, %"].startswith("75.0 [")
    assert rows[1]["tokens/s, relative"] == "2.00 [2.00, 2.00]"
    assert rows[0]["mean acceptance length"] == "–"
    assert {row["J/token"] for row in rows} == {"unavailable"}
    assert "mean quality, 0 to 100" not in rows[0]


def test_a_table_shows_the_columns_that_are_wanted(folder: Path) -> None:
    wanted = ("mean_quality", "tokens_per_s_relative")
    rows = program("headline_tables").results_table(figures(folder), "tiny", wanted)
    assert [*rows[1]] == ["run", "mean quality, 0 to 100", "tokens/s, relative"]
    assert rows[1]["mean quality, 0 to 100"].startswith("75.0 [")


def test_folders_share_a_pair_by_metrics(folder: Path, tmp_path: Path) -> None:
    other, root = write_results(tmp_path / "results" / "other", right=12), folder.parents[1]
    of_folder, put = headline().of_folder, headline().put
    quality = of_folder("tiny", folder, COMMAND, root, ["spider", "mean_quality"])
    speed = of_folder("tiny", other, COMMAND, root, ["tokens_per_s_relative"])
    assert {headline().metric_of(name) for name in quality} == {"spider", "mean_quality"}
    both = put(quality, speed)
    assert both == {**quality, **speed}
    assert headline().again(both, root) == both
    newer = of_folder("tiny", other, COMMAND, root, ["spider"])
    changed = put(both, newer)
    assert changed["tiny.mtad.spider"]["value"] == 100.0
    assert changed["tiny.mtad.mean_quality"]["value"] == 75.0


def test_a_metric_that_a_folder_lacks_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match=r"no figure of gsm8k; it has spider, mean_quality"):
        headline().of_folder("tiny", folder, COMMAND, folder.parents[1], ["gsm8k"])


def test_labels_become_methods_of_keys() -> None:
    assert headline().key("a", "MTAD, greedy endpoint", "spider") == "a.mtad_greedy_endpoint.spider"


def test_a_folder_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"neither samples\.jsonl nor speed\.jsonl"):
        headline().of_folder("tiny", tmp_path, COMMAND, tmp_path)


def test_rows_outside_of_the_repository_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not in"):
        headline().of_folder("tiny", folder, COMMAND, tmp_path / "elsewhere")


def test_kept_figures_name_rows_that_are_there() -> None:
    kept = headline().read()
    assert kept
    for name, entry in kept.items():
        assert (ROOT / entry["rows"]).is_file(), name
        assert {"value", "low", "high", "unit", "command", "rows"} <= entry.keys(), name

"""The files of a results folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.benchmarks import sample

from mtad.bench.files import open_rows, read_json, read_samples, read_scores, write_json
from mtad.bench.sample import Scored
from mtad.errors import DataError


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    rows = [sample(item=str(i), answers=["é\u2028\n"]) for i in range(3)]
    with open_rows(tmp_path / "samples.jsonl") as out:
        out.append(row.as_dict() for row in rows)
    assert read_samples(tmp_path) == rows


@pytest.mark.parametrize("cut", [1, 7, 100, -1, -2])
def test_a_half_written_last_line_is_left_out_and_then_overwritten(
    tmp_path: Path, cut: int
) -> None:
    path = tmp_path / "samples.jsonl"
    lines = [json.dumps(sample(item=str(i)).as_dict()) + "\n" for i in range(3)]
    path.write_text(lines[0] + lines[1] + lines[2][:cut])
    assert [s.item for s in read_samples(tmp_path)] == ["0", "1"]
    with open_rows(path) as out:
        out.append([sample(item="9").as_dict()])
    assert [s.item for s in read_samples(tmp_path)] == ["0", "1", "9"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[1]\n", "not a JSON object"),
        ('{"schema_version": 99}\n', "schema version 99; this mtad reads 1"),
        ('{"schema_version": 1, "stage": "test"}\n', "fields missing or unknown: .*answers"),
    ],
)
def test_rows_of_another_kind_are_refused(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "samples.jsonl").write_text(text)
    with pytest.raises(DataError, match=complaint):
        read_samples(tmp_path)


def test_a_row_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    row = json.dumps(Scored("test", "t", "1", "r", 0, 1.0, {}, 0, 0).as_dict())
    (tmp_path / "scores.jsonl").write_text(f"{row}\n{row}\n")
    with pytest.raises(DataError, match="twice"):
        read_scores(tmp_path)


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="run the step that writes it"):
        read_samples(tmp_path)


def test_infinite_numbers_never_reach_a_file(tmp_path: Path) -> None:
    with (
        open_rows(tmp_path / "samples.jsonl") as out,
        pytest.raises(ValueError, match="JSON compliant"),
    ):
        out.append([sample(nll=float("inf")).as_dict()])
    assert (tmp_path / "samples.jsonl").read_text() == ""


def test_json_files_are_whole_or_named_as_broken(tmp_path: Path) -> None:
    path = tmp_path / "chosen.json"
    assert read_json(path) == {}
    write_json(path, {"a": [1]})
    assert read_json(path) == {"a": [1]}
    assert [p.name for p in tmp_path.iterdir()] == ["chosen.json"]
    path.write_text("{")
    with pytest.raises(DataError, match="is not JSON"):
        read_json(path)

"""The files of a results folder: rows are appended, and what was cut off by a kill is mended.

    recipe.json         what was asked for
    items.json          a hash of each item that was asked, so that data sets are not mixed
    conditions.jsonl    on what it ran; one line per setting, named by its id
    samples.jsonl       one row per item, run and seed
    chosen.json         the options that each tuned run got
    scores.jsonl        one row per sample
    scoring.json        the options and versions of rules that the scores were made with
    front.json          bias and rejection of the lossy runs, once they were measured

`samples.jsonl` and `scores.jsonl` may be packed with xz once they are complete.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mtad.atomic import write_text
from mtad.bench.sample import Keyed, Sample, Scored, by_key
from mtad.errors import DataError
from mtad.jsonl import JsonLines, read_lines

SAMPLES, SCORES, CONDITIONS = "samples.jsonl", "scores.jsonl", "conditions.jsonl"
CHOSEN, SCORING, RECIPE, ITEMS = "chosen.json", "scoring.json", "recipe.json", "items.json"
FRONT = "front.json"


def read_samples(folder: Path) -> list[Sample]:
    """The rows of samples.jsonl.

    Raises:
        DataError: no such file, a damaged line, or a row that occurs twice.
    """
    return _rows(Sample, folder / SAMPLES)


def read_scores(folder: Path) -> list[Scored]:
    """The rows of scores.jsonl; errors as for `read_samples`."""
    return _rows(Scored, folder / SCORES)


def read_conditions(folder: Path) -> dict[str, dict[str, Any]]:
    """The lines of conditions.jsonl by their id."""
    return {row["id"]: row for row, _ in read_lines(folder / CONDITIONS)}


def read_json(path: Path) -> Any:
    """What a JSON file holds; an empty dictionary if there is none."""
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}; delete it and run the step again") from error


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file so that a half-written one is never seen."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _rows(cls: type[Keyed], path: Path) -> list[Keyed]:
    found = []
    for row, place in read_lines(path):
        try:
            found.append(cls.of(row))
        except (ValueError, TypeError) as error:
            raise DataError(f"{place} is no {cls.__name__.lower()} row: {error}") from error
    return list(by_key(found, path).values())


def open_rows(path: Path) -> JsonLines:
    """The file of rows, to append to; every row that was added is on the disk.

    Args:
        path: the file, made with its folder if it is not there.

    Raises:
        DataError: another program writes to it, or it is packed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    return JsonLines(path, synced=True)

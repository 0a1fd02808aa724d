"""The files of a results folder: rows are appended, and what was cut off by a kill is mended.

    recipe.json         what was asked for
    items.json          a hash of each item that was asked, so that data sets are not mixed
    conditions.jsonl    on what it ran; one line per setting, named by its id
    samples.jsonl       one row per item, run and seed
    chosen.json         the options that each tuned run got
    scores.jsonl        one row per sample
    scoring.json        the options that the scores were made with

`samples.jsonl` and `scores.jsonl` may be packed with xz once they are complete.
"""

from __future__ import annotations

import json
import lzma
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from mtad.bench.sample import Sample, Scored
from mtad.errors import DataError
from mtad.jsonl import open_lines

SAMPLES, SCORES, CONDITIONS = "samples.jsonl", "scores.jsonl", "conditions.jsonl"
CHOSEN, SCORING, RECIPE, ITEMS = "chosen.json", "scoring.json", "recipe.json", "items.json"


def read_samples(folder: Path) -> list[Sample]:
    """The rows of samples.jsonl.

    Raises:
        DataError: no such file, a damaged line, or a row that occurs twice.
    """
    rows = [_made(Sample, row, place) for row, place in read_rows(folder / SAMPLES)]
    _require_unique(folder / SAMPLES, rows)
    return rows


def read_scores(folder: Path) -> list[Scored]:
    """The rows of scores.jsonl; errors as for `read_samples`."""
    rows = [_made(Scored, row, place) for row, place in read_rows(folder / SCORES)]
    _require_unique(folder / SCORES, rows)
    return rows


def read_conditions(folder: Path) -> dict[str, dict[str, Any]]:
    """The lines of conditions.jsonl by their id."""
    return {row["id"]: row for row, _ in read_rows(folder / CONDITIONS)}


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


def write_text(path: Path, text: str) -> None:
    """Write a file so that a half-written one is never seen."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def read_rows(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """The rows of a file and their places; a last line without its end is left out.

    Raises:
        DataError: no such file, or a line that is not a JSON object.
    """
    for number, line in enumerate(_lines(path), start=1):
        place = f"{path}, line {number}"
        if not line.endswith(b"\n"):
            return  # the writer was killed here; `Rows` takes it away before it appends
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{place} is damaged: {error}; mend or delete the line") from error
        if not isinstance(row, dict):
            raise DataError(f"{place} is not a JSON object; mend or delete the line")
        yield row, place


def _lines(path: Path) -> Iterator[bytes]:
    packed = path.with_name(path.name + ".xz")
    if path.exists() and packed.exists():
        raise DataError(f"there are both {path} and {packed.name}; delete the one that is stale")
    if not path.exists() and not packed.exists():
        raise DataError(f"there is no {path}; run the step that writes it")
    try:
        with path.open("rb") if path.exists() else lzma.open(packed, "rb") as stream:
            yield from stream
    except (lzma.LZMAError, EOFError) as error:
        raise DataError(f"{packed} is damaged or cut off: {error}; unpack it again") from error


def _made(cls: Any, row: Mapping[str, Any], place: str) -> Any:
    try:
        return cls.of(row)
    except (ValueError, TypeError) as error:
        raise DataError(f"{place} is no {cls.__name__.lower()} row: {error}") from error


def _require_unique(path: Path, rows: Iterable[Sample | Scored]) -> None:
    seen = set()
    for row in rows:
        if row.key in seen:
            raise DataError(f"{path} holds the row {row.key} twice; delete one of them")
        seen.add(row.key)


class Rows:
    """A file of rows that one program appends to; every row is whole or not there.

    Args:
        path: the file, made if it is not there.

    Raises:
        DataError: another program is writing to it, or it was packed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.with_name(path.name + ".xz").exists():
            raise DataError(f"{path.name} is packed; unpack it first: xz -d {path}.xz")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._stream = open_lines(path)

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows; they are on the disk when this returns."""
        _write(self._stream, rows)

    def replace(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write these rows in the place of all that are there, or leave those if it is killed."""
        part = self.path.with_name(self.path.name + ".part")
        part.unlink(missing_ok=True)
        stream = open_lines(part)
        _write(stream, rows)
        part.replace(self.path)
        self._stream.close()
        self._stream = stream

    def __enter__(self) -> Rows:
        """The file, ready to append to."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file and let others write to it."""
        self._stream.close()


def _write(stream: BinaryIO, rows: Iterable[Mapping[str, Any]]) -> None:
    lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows]
    stream.write("".join(line + "\n" for line in lines).encode())
    stream.flush()
    os.fsync(stream.fileno())

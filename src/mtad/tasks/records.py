"""Files of a data set with one JSON object per line. Knows no task."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mtad.errors import DataError


def records(path: Path, source: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each line's object with its place for messages; empty lines are skipped.

    Args:
        path: the file; lines end at a newline byte and nowhere else.
        source: where to get it anew, for messages.

    Raises:
        DataError: there is no such file, a line is no JSON object, or there are no lines.
    """
    if not path.is_file():
        raise DataError(f"there is no {path}; get {path.name} from {source}")
    is_empty = True
    with path.open("rb") as lines:
        for number, raw in enumerate(lines, 1):
            if raw.strip():
                is_empty = False
                place = f"{path}, line {number}"
                yield place, _record(place, raw, source)
    if is_empty:
        raise DataError(f"{path} is empty; get it anew from {source}")


def _record(place: str, raw: bytes, source: str) -> dict[str, Any]:
    try:
        record = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place} is no JSON ({error}); get it anew from {source}") from error
    if not isinstance(record, dict):
        raise DataError(f"{place} is {record!r}, not a JSON object; get it anew from {source}")
    return record

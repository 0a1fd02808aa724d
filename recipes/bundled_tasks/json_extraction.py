"""The bundled texts for JSON extraction: orders, contacts, events, homes, trips, jobs and reports.

Rewrite the files with

    python -m recipes.bundled_tasks.json_extraction
"""

import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mtad.tasks import BUNDLED
from recipes.bundled_tasks.json_kinds import KINDS, Kind
from recipes.bundled_tasks.written import json_lines, write_files

NUM_ITEMS = 600
NUM_EXAMPLES = 4
SEED = 0


def record(rng: random.Random, kind: Kind) -> dict[str, Any]:
    """One text with its schema and its answer."""
    values = kind.draw(rng)
    text = rng.choice(kind.templates).format(**values)
    answer = {name: values[name] for name in kind.schema}
    return {"kind": kind.name, "schema": kind.schema, "text": text, "answer": answer}


def records() -> Iterator[dict[str, Any]]:
    """Kinds in turn; no text and no answer comes twice."""
    seen: set[str] = set()
    for number in itertools.count():
        kind = KINDS[number % len(KINDS)]
        made = record(random.Random(f"json_extraction/{SEED}/{number}"), kind)
        keys = {made["text"], json.dumps(made["answer"])}
        if not keys & seen:
            seen |= keys
            yield made


def files() -> dict[str, str]:
    """The content of each file, by its path in the folder of the task."""
    rows = records()
    shown = [*itertools.islice(rows, NUM_EXAMPLES * len(KINDS))]
    asked = [*itertools.islice(rows, NUM_ITEMS)]
    return {"examples.jsonl": json_lines(shown), "test.jsonl": json_lines(asked)}


def write(folder: Path) -> None:
    """Write the files of the task."""
    write_files(folder, files())


if __name__ == "__main__":
    write(BUNDLED / "json_extraction")

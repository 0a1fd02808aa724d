"""The table of docs/clients.md: what passed when the tests of clients last ran.

`bash scripts/test-clients --record` keeps that in docs/clients.json.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
FILE: Final = ROOT / "docs" / "clients.json"
FOLDER: Final = ROOT / "tests" / "clients"
PASSED: Final = "passed"


def read() -> dict[str, Any]:
    """The packages and calls of each client, by the name of its folder in tests/clients."""
    found = json.loads(FILE.read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def rows(clients: dict[str, Any]) -> Iterator[list[str]]:
    """Of each client its packages, the calls that passed, and the others with the reason."""
    for name, client in clients.items():
        calls = client["calls"].items()
        failed = [f"**{words}**: {_cell(how)}" for words, how in calls if how != PASSED]
        packages = ", ".join(" ".join(pair) for pair in client["packages"].items())
        yield [
            packages + (" (npm)" if (FOLDER / name / "package.json").exists() else ""),
            " · ".join(words for words, how in calls if how == PASSED),
            "<br>".join(failed) or "–",
        ]


def _cell(text: str) -> str:
    """A text that does not end the cell of a table, nor the line."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")

"""The table of clients has every call that the tests make, and hides none that fails."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "docs"))

import client_table  # noqa: E402


def test_every_call_that_is_tested_is_recorded() -> None:
    recorded = {name: set(client["calls"]) for name, client in client_table.read().items()}
    tested = {
        file.stem.removeprefix("test_"): set(re.findall(r'\bcall\(\s*"([^"]+)"', file.read_text()))
        for file in (ROOT / "tests" / "clients").glob("test_*.py")
    }
    assert recorded == tested


def test_a_call_that_fails_is_in_the_table_with_its_reason() -> None:
    client = {"packages": {"one": "1.0"}, "calls": {"chat": "passed", "tools": "400: a|b <c>\nd"}}
    [row] = client_table.rows({"one": client})
    assert row == ["one 1.0", "chat", "**tools**: 400: a\\|b &lt;c> d"]

"""The first examples of README.md: what is kept is what the commands print, and how it is drawn."""

from __future__ import annotations

import importlib
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from mtad.pairs import PAIRS

DOCS = Path(__file__).resolve().parents[2] / "docs"


@cache
def shown() -> Any:
    """docs/shown.py."""
    if str(DOCS) not in sys.path:
        sys.path.insert(0, str(DOCS))
    return importlib.import_module("shown")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["demo", pytest.param("smollm2", marks=pytest.mark.slow)])
def test_what_is_kept_is_what_the_command_prints(name: str) -> None:
    if not PAIRS[name].is_here:
        pytest.skip(f"needs the target of {name}: mtad fetch {name}")
    now = shown().printed(shown().commands()[name])
    assert shown().without_speeds(now) == shown().without_speeds(shown().read()[name]), (
        "README's example prints something else now; run: python docs/shown.py"
    )


def test_only_speeds_are_not_compared() -> None:
    line = "16 tokens · 372.4 tokens/s decode only, 302.1 tokens/s end to end · length 4.25"
    assert shown().without_speeds(line) == (
        "16 tokens · … tokens/s decode only, … tokens/s end to end · length 4.25"
    )


def test_the_picture_has_the_text_in_colours_without_marks() -> None:
    output = "ab⟨c & d⟩│\ne⟨f⟩│\naccepted · ⟨endpoint⟩ · │ ends\n5 tokens"
    svg = shown().picture("mtad x", output)
    rows = [
        [(span.get("fill"), span.text) for span in row]
        for row in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    ]
    green, yellow, grey, plain = (
        shown()._FILLS[name] for name in ("accepted", "endpoint", "border", "plain")
    )
    assert rows[0] == [(plain, "$ mtad x")]
    assert rows[1] == [(green, "ab"), (yellow, "c & d"), (grey, "│")]
    assert rows[2] == [(green, "e"), (yellow, "f"), (grey, "│")]
    assert rows[4] == [(plain, "5 tokens")]
    assert "⟨" not in svg


def test_long_lines_are_cut_and_nothing_is_lost() -> None:
    svg = shown().picture("mtad x", "a" * 250 + "\nlegend\nremarks")
    lengths = [len(text) for text in re.findall(r">(a+)<", svg)]
    assert lengths == [100, 100, 50]

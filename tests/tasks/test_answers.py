"""Reasoning and code blocks of answers."""

from __future__ import annotations

import pytest

from mtad.tasks.answers import REASONING_TAGS, Block, blocks, without_reasoning


@pytest.mark.parametrize(("opening", "closing"), REASONING_TAGS)
def test_reasoning_is_taken_out(opening: str, closing: str) -> None:
    assert without_reasoning(f"{opening}a\nb{closing}c").strip() == "c"
    assert without_reasoning(f"a\nb\n{closing}\n\nc").strip() == "c"
    assert without_reasoning(f"\n {opening}a{closing}b\n{opening}c{closing}d").split() == ["b", "d"]
    assert without_reasoning(f"{opening}never closed\nc").strip() == ""
    assert without_reasoning(f"c\n{opening}a{closing}") == "c\n"


@pytest.mark.parametrize(
    "answer", ["", "plain", "a < b and b > c", "print('<think>')", "if x: # <think>a</think>\n  y"]
)
def test_other_text_stays(answer: str) -> None:
    assert without_reasoning(answer) == answer


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("```py\na\n```", [Block("py", "a\n")]),
        ("~~~ SQL extra\na\n~~~", [Block("sql", "a\n")]),
        ("````\n```\na\n```\n````", [Block("", "```\na\n```\n")]),
        ("1. b\n\n   ```\n   a\n     c\n   ```", [Block("", "a\n  c\n")]),
        ("```\nnever closed", [Block("", "never closed")]),
        ("```one line```", []),
        ("    ```\n    indented code\n", []),
        ("", []),
    ],
)
def test_blocks_are_those_of_markdown(answer: str, found: list[Block]) -> None:
    assert blocks(answer) == found

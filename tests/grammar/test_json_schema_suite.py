"""JSON Schema's own tests: a schema is refused by name, or exactly its valid texts are accepted.

Where fewer are, NARROWER says why; more never are. The table of the docs is what is found here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from mtad.errors import GrammarError
from mtad.grammar.grammar import Grammar
from mtad.grammar.matcher import GrammarState, TokenGrammars
from mtad.pairs import PAIRS

SUITE = Path(__file__).with_name("json_schema_suite")
PAGE = Path(__file__).parents[2] / "docs/structured-output.md"
FILES = sorted(str(p.relative_to(SUITE).with_suffix("")) for p in SUITE.rglob("*.json"))
NUMBERS = "an integer has no fraction, not even .0"
LEAP = "no leap seconds"
NARROWER = {
    "allOf": "properties come in the order of the schemas",
    "const": f"properties in the order given; {NUMBERS}",
    "enum": NUMBERS,
    "type": NUMBERS,
    "format": "formats are kept, not only noted",
    "format/date-time": LEAP,
    "format/time": LEAP,
    "format/email": "no quoted names, no IPv6 addresses",
    "format/hostname": "no names in Punycode",
    "format/ipv6": "no IPv4 address as its end",
}
"""Why not all valid texts of a file are accepted."""


@dataclass(frozen=True)
class Found:
    """What became of the schemas and the texts of one file."""

    schemas: int
    refused: int
    texts: int
    right: int
    looser: tuple[str, ...]

    @property
    def narrower(self) -> int:
        """Valid texts that are not accepted."""
        return self.texts - self.right - len(self.looser)


@cache
def tokens() -> tuple[Any, TokenGrammars]:
    """The tokenizer of the real pair where it is, else that of the embedded one."""
    pair = PAIRS["smollm2"] if PAIRS["smollm2"].is_here else PAIRS["demo"]
    tokenizer = AutoTokenizer.from_pretrained(pair.target)
    eos = [tokenizer.eos_token_id]
    return tokenizer, TokenGrammars.of(tokenizer, len(tokenizer), eos)


def accepts(state: GrammarState, text: str) -> bool:
    tokenizer, _ = tokens()
    try:
        for token in tokenizer(text, add_special_tokens=False)["input_ids"]:
            state.push(token)
    except GrammarError:
        return False
    excluded = state.excluded(())
    assert excluded is not None
    return not excluded[tokenizer.eos_token_id]


def spellings(data: Any) -> Iterator[str]:
    """As it is written compactly, and as Python writes it."""
    yield json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    yield json.dumps(data, ensure_ascii=False)


@cache
def found(file: str) -> Found:
    tokenizer, grammars = tokens()
    cases = json.loads((SUITE / f"{file}.json").read_text(encoding="utf-8"))
    refused = texts = right = 0
    looser = []
    for case in cases:
        try:
            state = grammars.begin(Grammar.json(case["schema"]), [tokenizer.eos_token_id])
        except GrammarError:
            refused += 1
            continue
        for test in case["tests"]:
            for text in dict.fromkeys(spellings(test["data"])):
                is_accepted = accepts(state.restarted(), text)
                texts += 1
                right += is_accepted == test["valid"]
                if is_accepted and not test["valid"]:
                    looser.append(f"{case['schema']} accepts {text}")
    return Found(len(cases), refused, texts, right, tuple(looser))


@pytest.mark.parametrize("file", FILES)
def test_no_text_is_accepted_that_is_not_valid(file):
    one = found(file)
    assert not one.looser
    assert (one.narrower > 0) == (file in NARROWER)


def table() -> str:
    """What each file shows, those that have no schema that is taken in one line."""
    rows = ["| tests of | schemas taken | texts judged alike | narrower |", "|---|---:|---:|---|"]
    never = [f"`{file}`" for file in FILES if found(file).refused == found(file).schemas]
    for file in FILES:
        one = found(file)
        if one.refused < one.schemas:
            name = f"`{file.removeprefix('format/')}`" + (" (format)" if "/" in file else "")
            taken = f"{one.schemas - one.refused} of {one.schemas}"
            alike = f"{one.right} of {one.texts}"
            rows.append(f"| {name} | {taken} | {alike} | {NARROWER.get(file, '')} |")
    return "\n".join([*rows, f"| {', '.join(never)} | none | – | |"])


def test_the_page_has_the_table():
    shown = PAGE.read_text(encoding="utf-8").split("<!-- suite:begin -->")[1]
    assert shown.split("<!-- suite:end -->")[0].strip() == table()

"""The bundled questions of general knowledge and words, from the facts beside this file.

A line of `facts/*.txt` is "subject = answer | another accepted answer". Rewrite the files with

    python -m recipes.bundled_tasks.closed_book
"""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mtad.tasks import BUNDLED
from recipes.bundled_tasks.written import json_lines, write_files

FACTS = Path(__file__).parent / "facts"
SEED = 0
QUESTIONS = {
    "capital": "What is the capital of {}?",
    "currency": "What is the currency of {}?",
    "language": "What is the main language of {}?",
    "author": "Who is the author of the book “{}”?",
    "element": "What is the chemical symbol of {}?",
    "opposite": "What is the opposite of the word “{}”?",
    "plural": "What is the plural of the word “{}”?",
    "state": "What is the capital of the US state {}?",
}
EXAMPLES = {
    "capital": {"the Philippines": "Manila", "Mexico": "Mexico City", "Bhutan": "Thimphu"},
    "currency": {"Finland": "euro", "Bolivia": "boliviano", "Sri Lanka": "rupee"},
    "language": {"Ukraine": "Ukrainian", "Colombia": "Spanish", "Syria": "Arabic"},
    "author": {
        "Northanger Abbey": "Jane Austen",
        "The Sea-Wolf": "Jack London",
        "Kim": "Rudyard Kipling",
    },
    "element": {"neodymium": "Nd", "osmium": "Os", "francium": "Fr"},
    "opposite": {"true": "false", "winner": "loser", "best": "worst"},
    "plural": {"table": "tables", "bench": "benches", "penny": "pennies"},
    "state": {"Iowa": "Des Moines", "Ohio": "Columbus", "Utah": "Salt Lake City"},
}
"""Shown before a question of their kind; none of them is asked."""


def facts(kind: str) -> Iterator[tuple[str, list[str]]]:
    """Subjects with their answers, the usual one first."""
    for line in (FACTS / f"{kind}.txt").read_text(encoding="utf-8").splitlines():
        subject, _, answers = line.partition(" = ")
        yield subject, answers.split(" | ")


def records() -> list[dict[str, Any]]:
    """All questions in a shuffled order; those about one subject share their group."""
    rows = [
        _record(kind, subject, answers) for kind in QUESTIONS for subject, answers in facts(kind)
    ]
    random.Random(f"closed_book/{SEED}").shuffle(rows)
    return rows


def _record(kind: str, subject: str, answers: list[str]) -> dict[str, Any]:
    question = QUESTIONS[kind].format(subject)
    return {"kind": kind, "group": subject, "question": question, "answers": answers}


def files() -> dict[str, str]:
    """The content of each file, by its path in the folder of the task."""
    shown = [
        _record(kind, subject, [answer])
        for kind, solved in EXAMPLES.items()
        for subject, answer in solved.items()
    ]
    return {"examples.jsonl": json_lines(shown), "test.jsonl": json_lines(records())}


def write(folder: Path) -> None:
    """Write the files of the task."""
    write_files(folder, files())


if __name__ == "__main__":
    write(BUNDLED / "closed_book")

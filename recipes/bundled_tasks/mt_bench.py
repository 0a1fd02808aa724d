"""The mini-MT-Bench: two-turn chats in the embedded pair's own words, in FastChat's files.

Every first request is held out: training never saw it in any conversation, and it opens none of the
conversations by which the pair was chosen. Rewrite the files with

    python -m recipes.bundled_tasks.mt_bench
"""

import itertools
import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from mtad import demo
from mtad.tasks import BUNDLED
from recipes.bundled_tasks.written import json_lines, write_files
from recipes.demo_pair import chat, lookups
from recipes.demo_pair.corpus import heldout_keys

NUM_PER_CATEGORY = 30
SEED = 0
FAMILIES: dict[str, chat.Family] = {
    "extraction": partial(chat.facts, num_people=2),
    "knowledge": lookups.looking_up,
    "math": chat.units,
    "writing": chat.rewriting,
}


def questions() -> list[dict[str, Any]]:
    """The questions with `turns` and `references`, category by category in turn."""
    used = heldout_openings()
    found = [list(_category(name, used)) for name in FAMILIES]
    mixed = itertools.chain(*zip(*found, strict=True))
    return [{"question_id": number, **question} for number, question in enumerate(mixed, 1)]


def heldout_openings() -> set[str]:
    """What the user says first in the held-out chats that come with the pair."""
    chats = [item["messages"] for item in demo.heldout("chat")]
    return {next(m["content"] for m in messages if m["role"] == "user") for messages in chats}


def _category(name: str, used: set[str]) -> Iterator[dict[str, Any]]:
    """The questions of one category; their openings, greetings aside, differ."""
    plain: set[str] = set()
    for number in itertools.count():
        rng = random.Random(f"mt_bench/{SEED}/{name}/{number}")
        problem = chat.problem(rng, 2, [FAMILIES[name]])
        first, answer, second = [m["content"] for m in problem.prompt if m["role"] != "system"]
        if "request" not in heldout_keys(problem) or first in used or bare(first) in plain:
            continue
        plain.add(bare(first))
        yield {
            "category": name,
            "turns": [first, second],
            "references": [answer, problem.reference],
        }
        if len(plain) == NUM_PER_CATEGORY:
            return


def bare(request: str) -> str:
    """The request without its greeting."""
    greeting = max((g for g in chat.GREETINGS if request.startswith(g)), key=len)
    return request.removeprefix(greeting)


def files() -> dict[str, str]:
    """The content of each file, by its path in the folder of the task."""
    asked, answers = [], []
    for question in questions():
        references = question.pop("references")
        asked.append(question)
        answers.append(
            {
                "question_id": question["question_id"],
                "model_id": "reference",
                "choices": [{"index": 0, "turns": references}],
            }
        )
    return {
        "question.jsonl": json_lines(asked),
        "reference_answer/reference.jsonl": json_lines(answers),
    }


def write(folder: Path) -> None:
    """Write the files of the task."""
    write_files(folder, files())


if __name__ == "__main__":
    write(BUNDLED / "mt_bench")

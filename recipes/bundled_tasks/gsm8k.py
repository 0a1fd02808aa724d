"""The mini-GSM8K: conversions of units in the embedded pair's own words, in GSM8K's file.

Every request is held out: training never saw it, and it opens none of the conversations by which
the pair was chosen. Rewrite the file with

    python -m recipes.bundled_tasks.gsm8k
"""

import itertools
import random
from collections.abc import Iterator
from pathlib import Path

from mtad.tasks import BUNDLED
from recipes.bundled_tasks.mt_bench import bare, heldout_openings
from recipes.bundled_tasks.written import json_lines, write_files
from recipes.demo_pair import chat
from recipes.demo_pair.corpus import heldout_keys

NUM_QUESTIONS = 60
SEED = 0


def questions() -> Iterator[dict[str, str]]:
    """Single requests, no two of which differ by their greetings alone."""
    used, plain = heldout_openings(), set[str]()
    for number in itertools.count():
        rng = random.Random(f"gsm8k/{SEED}/{number}")
        problem = chat.problem(rng, 1, [chat.units])
        request = problem.prompt[-1]["content"]
        if "request" not in heldout_keys(problem) or request in used or bare(request) in plain:
            continue
        plain.add(bare(request))
        yield {"question": request, "answer": _solved(problem.reference)}


def _solved(reference: str) -> str:
    """The reference answer in GSM8K's form; its last number is the result."""
    numbers = [word for word in reference.split() if word.isdecimal()]
    return f"{reference}\n#### {numbers[-1]}"


def files() -> dict[str, str]:
    """The content of each file, by its path in the folder of the task."""
    rows = itertools.islice(questions(), NUM_QUESTIONS)
    return {"test.jsonl": json_lines(rows)}


def write(folder: Path) -> None:
    """Write the files of the task."""
    write_files(folder, files())


if __name__ == "__main__":
    write(BUNDLED / "gsm8k")

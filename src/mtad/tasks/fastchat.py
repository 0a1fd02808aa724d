"""FastChat's file formats: questions and reference answers in, answers and judgments out.

Spec-Bench reads the answers too. Knows no judge and no model.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeGuard

from mtad.errors import DataError
from mtad.tasks.records import records
from mtad.tasks.task import Exported

UNPARSED: Final = -1
"""The score of a judgment without a rating; FastChat's scripts leave such rows out of means."""


def questions(folder: Path, source: str) -> list[dict[str, Any]]:
    """The lines of `question.jsonl`, checked; a question has one turn or more.

    Args:
        folder: where the file is.
        source: where to get it, for messages.

    Raises:
        DataError: there is no such file, or a line of it is damaged.
    """
    found: dict[str, dict[str, Any]] = {}
    for place, line in records(folder / "question.jsonl", source):
        _check_question(place, line)
        if found.setdefault(str(line["question_id"]), line) is not line:
            raise DataError(f"{place}: question_id {line['question_id']} occurs twice")
    return [*found.values()]


def references(folder: Path, first: str, source: str) -> dict[str, list[str]]:
    """Reference answers by question id, from the files of `reference_answer`.

    Where several files answer a question, the one called `first` counts, else the first by name.

    Raises:
        DataError: a line is damaged.
    """
    paths = sorted((folder / "reference_answer").glob("*.jsonl"))
    found: dict[str, list[str]] = {}
    for path in sorted(paths, key=lambda path: path.stem != first):
        for place, line in records(path, source):
            found.setdefault(str(line.get("question_id")), _reference(place, line))
    return found


def _check_question(place: str, line: Mapping[str, Any]) -> None:
    number, turns = line.get("question_id"), line.get("turns")
    if isinstance(number, bool) or not isinstance(number, int | str):
        raise DataError(f"{place}: question_id is {number!r}; expected a number or a string")
    if not _are_texts(turns) or not turns or not all(map(str.strip, turns)):
        raise DataError(f"{place}: turns is {turns!r}; expected a list of texts, none empty")
    if not isinstance(line.get("category"), str):
        raise DataError(f"{place}: category is {line.get('category')!r}; expected a string")
    if "reference" in line and not _are_references(line["reference"]):
        raise DataError(
            f"{place}: reference is {line['reference']!r}; expected a list with a text, or a list "
            "of texts, for each turn"
        )


def _reference(place: str, line: Mapping[str, Any]) -> list[str]:
    try:
        turns = line["choices"][0]["turns"]
    except (KeyError, IndexError, TypeError):
        turns = None
    if not _are_texts(turns):
        raise DataError(f'{place}: expected "choices": [{{"turns": [texts]}}], found {line!r}')
    return list(turns)


def _are_texts(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _are_references(value: object) -> bool:
    """One text per turn, or in Spec-Bench one list of right answers."""
    return isinstance(value, list) and all(isinstance(r, str) or _are_texts(r) for r in value)


def answer_row(run: str, samples: Sequence[Exported]) -> dict[str, Any]:
    """The line of a model answer file for one question; each seed is a choice."""
    record = samples[0].item.record
    choices = [_choice(sample) for sample in sorted(samples, key=lambda sample: sample.seed)]
    content = json.dumps([run, samples[0].item.id, [choice["turns"] for choice in choices]])
    return {
        "question_id": record["question_id"],
        "category": record["category"],
        "answer_id": hashlib.sha256(content.encode()).hexdigest()[:22],
        "model_id": run,
        "choices": choices,
        "tstamp": time.time(),
    }


def _choice(sample: Exported) -> dict[str, Any]:
    """One seed's answers, with the counts and times that Spec-Bench's scripts read."""
    stats = sample.stats
    choice: dict[str, Any] = {"index": sample.seed, "turns": list(sample.answers)}
    if len(stats) != len(sample.answers):
        return choice
    return choice | {
        "decoding_steps": [turn["num_spec_steps"] for turn in stats],
        "new_tokens": [turn["num_output_tokens"] for turn in stats],
        "wall_time": [turn["prefill_s"] + turn["decode_s"] for turn in stats],
        "accept_lengths": [n for turn in stats for n in _lengths(turn["acceptance_histogram"])],
    }


def _lengths(histogram: Mapping[str, int]) -> list[int]:
    """Tokens of each step, the endpoint token included; their order is not kept."""
    return [int(a) + 1 for a, num_steps in histogram.items() for _ in range(num_steps)]


def judgment_row(
    run: str, sample: Exported, turn: int, judge: tuple[str, str], user_prompt: str
) -> dict[str, Any]:
    """The line of a judgment file for one turn of a scored sample.

    Args:
        run: the label of the run, FastChat's model.
        sample: with a score whose detail has `ratings` and `judgments`.
        turn: its number, from 1.
        judge: its name and that of its prompt.
        user_prompt: what the judge was asked.
    """
    detail = sample.score.detail if sample.score else {}
    rating = detail["ratings"][turn - 1]
    return {
        "question_id": sample.item.record["question_id"],
        "model": run,
        "choice": sample.seed,
        "judge": list(judge),
        "user_prompt": user_prompt,
        "judgment": detail["judgments"][turn - 1],
        "score": UNPARSED if rating is None else rating,
        "turn": turn,
        "tstamp": time.time(),
    }


def jsonl(rows: Iterable[Mapping[str, Any]]) -> str:
    """The rows as JSON, one per line."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

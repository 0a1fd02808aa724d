"""Perplexity of the output under the target, on any prompts, and how far the output repeats itself.

A low perplexity can be mere repetition, so the repetition rate stands beside it in every table. The
sums are made where the model is; this module turns them into metrics.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from mtad.errors import DataError
from mtad.jsonl import text_lines
from mtad.tasks.task import Item, Score, Task


def perplexity(nll: float, num_tokens: int) -> float | None:
    """The exponential of the mean −log p per token; None without tokens."""
    return math.exp(nll / num_tokens) if num_tokens else None


def repeated_4grams(turns: Sequence[Sequence[int]]) -> tuple[int, int]:
    """The 4-grams of token ids that occurred earlier in the same turn, and all 4-grams."""
    repeated = total = 0
    for ids in turns:
        grams = list(zip(ids, ids[1:], ids[2:], ids[3:], strict=False))
        total += len(grams)
        repeated += len(grams) - len(set(grams))
    return repeated, total


@dataclass(frozen=True)
class Perplexity(Task):
    """Prompts without right answers: only the likelihood of the output and its speed count.

    `data` is a JSON-lines file, or a folder with `prompts.jsonl`, of {"prompt": "…"} or
    {"turns": ["…"]} objects.
    """

    name: ClassVar[str] = "perplexity"
    metric: ClassVar[str] = "no score"
    source: ClassVar[str] = "your own prompts"

    def prompts(self) -> list[Item]:
        """One item per line; errors name the line."""
        path = self.data / "prompts.jsonl" if self.data.is_dir() else self.data
        if not path.exists():
            raise DataError(
                f'there is no {path}; put prompts there, one {{"prompt": "…"}} object a line'
            )
        return [_item(f"{path}, line {n}", n, line) for n, line in text_lines(path)]

    def score(self, item: Item, answers: Sequence[str]) -> Score:
        """No score: there is no right answer."""
        return Score(None, {"problem": "this task has no right answers"})


def _item(place: str, number: int, line: str) -> Item:
    try:
        record: Any = json.loads(line)
    except ValueError as error:
        raise DataError(f"{place} is not JSON: {error}") from error
    if not isinstance(record, dict):
        raise DataError(f"{place} is not a JSON object with a prompt or turns")
    turns = record.get("turns", [record.get("prompt")])
    if not isinstance(turns, list) or not turns or not all(isinstance(t, str) for t in turns):
        raise DataError(f"{place} has neither a prompt nor turns, which must be texts")
    return Item(str(record.get("question_id", number)), tuple(turns), record=record)

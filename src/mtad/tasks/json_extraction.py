"""JSON extraction: a short text in, one JSON object of a stated schema out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, ClassVar, Final

from mtad.core.prompt import Prompt
from mtad.errors import DataError
from mtad.tasks.few_shot import FewShotByKind, few_shot
from mtad.tasks.json_answer import find_object, is_same, is_type, type_names, violations
from mtad.tasks.task import Item, Score

_MAX_SHOWN: Final = 500


@dataclass(frozen=True)
class JSONExtraction(FewShotByKind):
    """Short texts of several kinds, each with a schema and the object that a model should write.

    The folder holds `test.jsonl` and `examples.jsonl`, one object a line: `kind`, `schema` (the
    type of each key), `text`, and `answer`. The examples are shown as solved before a question of
    their kind.

    An answer is right if its first JSON object parses, has the keys of the schema with values of
    their types and no others, and every value is that of the data.

    Attributes:
        chat: ask through the chat template; False in plain text, for models without one.
        num_examples: solved texts of the same kind before the question.
    """

    num_examples: int = 3

    name: ClassVar[str] = "json_extraction"
    metric: ClassVar[str] = "exact objects"
    source: ClassVar[str] = "this project's recipes/bundled_tasks/json_extraction.py"
    text_stops: ClassVar[tuple[str, ...]] = ("\nText:", "\nExtract")

    def prompt(self, item: Item, answers: Sequence[str]) -> Prompt:
        """The solved examples and the text."""
        solved = [(self.question(e), json.dumps(e["answer"])) for e in item.record["examples"]]
        return few_shot(solved, item.turns[0], "JSON:", chat=self.chat)

    def score(self, item: Item, answers: Sequence[str]) -> Score:
        """1 if the object parses, validates and has exactly the values of the data, else 0."""
        gold, found = item.record["answer"], find_object(answers[0])
        if found is None:
            return _score(0.0, parses=False, validates=False, error="no JSON object")
        wrong = violations(found, item.record["schema"])
        same = fmean(name in found and is_same(found[name], gold[name]) for name in gold)
        error = "; ".join(wrong)[:_MAX_SHOWN]
        return _score(same, parses=True, validates=not wrong, error=error)

    def more(self, scores: Mapping[str, Sequence[Score]]) -> dict[str, float]:
        """How many answers parse, how many validate, and how many single values are right."""
        return {
            f"share_{name}": fmean(
                fmean(float(score.detail[name]) for score in found) for found in scores.values()
            )
            for name in ("parses", "validates", "right_values")
            if scores
        }

    @staticmethod
    def question(record: Mapping[str, Any]) -> str:
        """The schema and the text."""
        keys = "\n".join(f"- {name}: {kind}" for name, kind in record["schema"].items())
        return (
            f"Extract the {record['kind']} from the text as one JSON object with these keys:\n"
            f"{keys}\nText: {record['text']}"
        )

    @staticmethod
    def checked(place: str, record: dict[str, Any]) -> dict[str, Any]:
        """The record if it is one.

        Raises:
            DataError: a key is missing, or the answer does not fit the schema.
        """
        for key, kind in {"kind": str, "text": str, "schema": dict, "answer": dict}.items():
            if not isinstance(record.get(key), kind) or not record[key]:
                raise DataError(
                    f"{place}: {key} is {record.get(key)!r}; expected a {kind.__name__}"
                )
        for name, kind in record["schema"].items():
            if not isinstance(kind, str) or not is_type(kind):
                raise DataError(f"{place}: the type of {name} is {kind!r}; allowed: {type_names()}")
        if wrong := violations(record["answer"], record["schema"]):
            raise DataError(f"{place}: the answer does not fit the schema: {'; '.join(wrong)}")
        return record


def _score(right_values: float, *, parses: bool, validates: bool, error: str) -> Score:
    detail = {"parses": parses, "validates": validates, "right_values": right_values}
    is_right = validates and right_values == 1
    return Score(float(is_right), {**detail, **({"error": error} if error else {})})

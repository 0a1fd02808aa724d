"""GSM8K: word problems of grade-school mathematics, right if the last number is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import ClassVar, Final, Literal, get_args

from mtad.core.prompt import Message, Prompt
from mtad.errors import DataError
from mtad.tasks.answers import without_reasoning
from mtad.tasks.gsm8k_examples import EXAMPLES
from mtad.tasks.records import records
from mtad.tasks.task import BUNDLED, Item, Score, Task

Extraction = Literal["flexible", "strict"]

_STOPS: Final = ("\nQuestion:",)
_NUMBER: Final = r"\$?(?:(?<![\w)\]])[-−])?\$?(?:[0-9][0-9,]*(?:\.[0-9]+)?|\.[0-9]+)"
_LAST_NUMBER: Final = re.compile(_NUMBER)
_MARKED: Final = re.compile(rf"(?:####|\bthe answer is\b)\s*({_NUMBER})", re.IGNORECASE)
_GOLD: Final = "####"


@dataclass(frozen=True)
class GSM8K(Task):
    """The test set of GSM8K, or any file of its form: `test.jsonl` with question and answer.

    An answer in the data ends with "#### N". The prompt has solved examples before the question; in
    a chat each of them is a question of the user and an answer of the assistant.

    Attributes:
        chat: ask through the chat template; the bundled set always does.
        num_examples: how many of the eight examples the prompt has; None for all, and for none with
            the bundled set.
        extraction: which number of an answer counts. "strict" takes the first one after "####" or
            "The answer is", "flexible" the last one at all. The report shows both.
    """

    num_examples: int | None = None
    extraction: Extraction = "flexible"

    name: ClassVar[str] = "gsm8k"
    metric: ClassVar[str] = "exact match"
    source: ClassVar[str] = (
        "Cobbe et al., Training Verifiers to Solve Math Word Problems, 2021; "
        "https://github.com/openai/grade-school-math, grade_school_math/data"
    )

    def __post_init__(self) -> None:
        """Refuse impossible options; the embedded pair knows chats without examples alone."""
        if self.data == BUNDLED / self.name:
            object.__setattr__(self, "chat", True)
            object.__setattr__(self, "num_examples", self.num_examples or 0)
        if self.num_examples is not None and not 0 <= self.num_examples <= len(EXAMPLES):
            allowed = f"0 to {len(EXAMPLES)}"
            raise ValueError(f"num_examples is {self.num_examples}; allowed are {allowed}")
        if self.extraction not in get_args(Extraction):
            allowed = ", ".join(get_args(Extraction))
            raise ValueError(f"extraction is {self.extraction!r}; allowed are {allowed}")

    @property
    def stops(self) -> tuple[str, ...]:  # type: ignore[override]
        """The next question; none where the chat template ends an answer."""
        return () if self.chat else _STOPS

    def prompts(self) -> list[Item]:
        """The questions in the order of the file.

        Raises:
            DataError: the file is missing, or a line of it is damaged.
        """
        lines = records(self.data / "test.jsonl", self.source)
        return [_item(number, place, record) for number, (place, record) in enumerate(lines)]

    def prompt(self, item: Item, answers: Sequence[str]) -> Prompt:
        """The examples and the question."""
        shown = EXAMPLES[: self.num_examples]
        if not self.chat:
            solved = [f"Question: {question}\nAnswer: {answer}\n\n" for question, answer in shown]
            return f"{''.join(solved)}Question: {item.turns[0]}\nAnswer:"
        messages: list[Message] = []
        for question, answer in shown:
            messages += [
                {"role": "user", "content": question},
                {"role": "assistant", "content": answer},
            ]
        return [*messages, {"role": "user", "content": item.turns[0]}]

    def score(self, item: Item, answers: Sequence[str]) -> Score:
        """1 if the number is that of the data, else 0."""
        gold = _normalised(item.record["answer"].rpartition(_GOLD)[2])
        found = {"strict": strict(answers[0]), "flexible": flexible(answers[0])}
        right = {name: float(number == gold) for name, number in found.items()}
        return Score(right[self.extraction], {"gold": gold, "numbers": found, "right": right})

    def more(self, scores: Mapping[str, Sequence[Score]]) -> dict[str, float]:
        """The means of both extractions."""
        return {
            f"exact_match_{name}": fmean(
                fmean(score.detail["right"][name] for score in found) for found in scores.values()
            )
            for name in ("strict", "flexible")
            if scores
        }


def strict(answer: str) -> str | None:
    """The first number after "####" or "The answer is", None where there is none."""
    found = _MARKED.search(_plain(answer))
    return _normalised(found[1]) if found else None


def flexible(answer: str) -> str | None:
    """The last number, None where there is none."""
    numbers = _LAST_NUMBER.findall(_plain(answer))
    return _normalised(numbers[-1]) if numbers else None


def _plain(answer: str) -> str:
    """The answer without its reasoning, and with commas as they are outside of LaTeX."""
    return without_reasoning(answer).replace("{,}", ",")


def _normalised(number: str) -> str:
    """The number without commas, dollar sign and trailing dots."""
    return number.strip().replace(",", "").replace("$", "").replace("−", "-").rstrip(".")


def _item(number: int, place: str, record: Mapping[str, object]) -> Item:
    question, answer = record.get("question"), record.get("answer")
    if not isinstance(question, str) or not question.strip():
        raise DataError(f"{place}: question is {question!r}; expected a text")
    if not isinstance(answer, str) or not _LAST_NUMBER.search(answer.rpartition(_GOLD)[2]):
        raise DataError(f'{place}: answer is {answer!r}; expected a text that ends with "#### N"')
    return Item(f"{number:04d}", (question,), record=record)

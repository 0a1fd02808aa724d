"""A task: prompts, and a score for the answers. Knows no model.

A task is a frozen dataclass; its fields are its options and what a recipe may set in its table.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

from mtad.core.prompt import Message, Prompt


def file_name(run: str) -> str:
    """The run's name as a file name: in no other folder, not hidden, and unique."""
    quoted = quote(run, safe=" ,=+()")
    return f"%2E{quoted[1:]}" if quoted.startswith(".") else quoted


BUNDLED = Path(__file__).parent / "data"
"""The small sets that come with mtad, one folder per task, in the formats of the real ones."""


@dataclass(frozen=True)
class Item:
    """One question of a data set.

    Attributes:
        id: unique in the task.
        turns: the user messages, one per turn; most tasks have one turn.
        group: items of one group (a database) stay together when the set is split.
        category: for tables by kind of question.
        record: the line of the data set, for scoring.
    """

    id: str
    turns: tuple[str, ...]
    group: str = ""
    category: str = ""
    record: Mapping[str, Any] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Score:
    """The score of one sample.

    Attributes:
        value: on the task's scale; None where it could not be judged, which is no 0.
        detail: the reasons, for JSON; `problem` says why there is no value, and `ratings` lists
            the numbers that the value is the mean of, None for those that are missing. In a mean
            over items every rating weighs the same.
    """

    value: float | None
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Task(ABC):
    """A data set, its prompts and its scoring.

    Attributes:
        data: the folder of the data set.
        chat: send each turn as a user message through the tokenizer's chat template.

    Class attributes:
        name: the name users type, that of its file.
        metric: what the mean of the scores is called.
        scale: the worst and the best score.
        stops: texts that end an answer.
        source: where the data set comes from.
        is_waiting: whether scoring mostly waits for another service.
        rules: version of how answers are scored; raised where the same answer may get another
            score, so that scores made before are made again.
    """

    data: Path
    chat: bool = False

    name: ClassVar[str]
    metric: ClassVar[str]
    scale: ClassVar[tuple[float, float]] = (0.0, 1.0)
    stops: ClassVar[tuple[str, ...]] = ()
    source: ClassVar[str]
    is_waiting: ClassVar[bool] = False
    rules: ClassVar[int] = 1

    @abstractmethod
    def prompts(self) -> list[Item]:
        """The questions, in the order of the data set.

        Raises:
            DataError: the data set is missing or damaged; says where to get and to put it.
        """

    @abstractmethod
    def score(self, item: Item, answers: Sequence[str]) -> Score:
        """The score of the answers to the item's turns; may be called from several threads."""

    def prompt(self, item: Item, answers: Sequence[str]) -> Prompt:
        """The prompt of the turn after `answers`."""
        if not self.chat:
            return item.turns[len(answers)]
        messages: list[Message] = []
        for turn, answer in zip(item.turns, answers, strict=False):
            messages += [
                {"role": "user", "content": turn},
                {"role": "assistant", "content": answer},
            ]
        return [*messages, {"role": "user", "content": item.turns[len(answers)]}]

    def check(self) -> None:  # noqa: B027 - most tasks need nothing
        """Raise now what scoring would raise later: no permission, no judge, no isolation."""

    def more(self, scores: Mapping[str, Sequence[Score]]) -> dict[str, float]:
        """Further metrics of one run by name, such as pass@10, from the scores of each item."""
        return {}

    def export(self, run: str, samples: Mapping[str, Sequence[Exported]]) -> dict[str, str]:
        """File names and contents in the formats that the data set's own scripts read."""
        return {}


@dataclass(frozen=True)
class Exported:
    """One sample as `Task.export` gets it.

    Attributes:
        item: the question.
        answers: the text of each turn.
        score: None if it was not scored.
        seed: the number of the sample.
        stats: counts and times of each turn, as `Stats.as_dict` gives them.
    """

    item: Item
    answers: Sequence[str]
    score: Score | None
    seed: int
    stats: Sequence[Mapping[str, Any]]

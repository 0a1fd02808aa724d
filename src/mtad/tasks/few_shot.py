"""Tasks whose prompts show solved questions before the one that is asked."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from mtad.core.prompt import Message, Prompt
from mtad.errors import DataError
from mtad.tasks.records import records
from mtad.tasks.task import Item, Task

Solved = tuple[str, str]
"""A question and its answer."""


def few_shot(solved: Iterable[Solved], question: str, label: str, *, chat: bool) -> Prompt:
    """The solved questions and then the question.

    In plain text each answer stands behind `label` on a line of its own; in a chat each question is
    a message of the user and each answer one of the assistant.

    Args:
        solved: questions with their answers.
        question: what is asked.
        label: stands before an answer, such as "Answer:".
        chat: whether the prompt goes through the chat template.
    """
    if not chat:
        shown = "".join(f"{asked}\n{label} {answer}\n\n" for asked, answer in solved)
        return f"{shown}{question}\n{label}"
    messages: list[Message] = []
    for asked, answer in solved:
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    return [*messages, {"role": "user", "content": question}]


@dataclass(frozen=True)
class FewShot(Task):
    """A task with solved questions before each question.

    Attributes:
        chat: ask through the chat template; False in plain text, for models without one.
        num_examples: solved questions before the question; None where the class fills it in.

    Class attributes:
        text_stops: texts that end an answer in plain text; a chat template ends one by itself.
    """

    chat: bool = True
    num_examples: int | None = None

    text_stops: ClassVar[tuple[str, ...]]

    def __post_init__(self) -> None:
        """Refuse a negative number of examples."""
        if self.num_shown < 0:
            raise ValueError(f"num_examples is {self.num_examples}; give 0 or more")

    @property
    def num_shown(self) -> int:
        """The number of examples."""
        return self.num_examples or 0

    @property
    def stops(self) -> tuple[str, ...]:  # type: ignore[override]
        """`text_stops`; none where the chat template ends an answer."""
        return () if self.chat else self.text_stops


@dataclass(frozen=True)
class FewShotByKind(FewShot):
    """Questions of several kinds, each asked after solved ones of its kind.

    The folder holds `test.jsonl` and, where examples are shown, `examples.jsonl`; a line has at
    least `kind`. Questions of one `group` stay on one side of the split.
    """

    @staticmethod
    @abstractmethod
    def checked(place: str, record: dict[str, Any]) -> dict[str, Any]:
        """The record if it is one; raises DataError, which names the place, if not."""

    @staticmethod
    @abstractmethod
    def question(record: Mapping[str, Any]) -> str:
        """What is asked about a record."""

    def prompts(self) -> list[Item]:
        """The questions in the order of the file, with the solved ones of their kind in the record.

        Raises:
            DataError: a file is missing or damaged, or there are too few examples of a kind.
        """
        examples: dict[str, list[dict[str, Any]]] = {}
        for record in self._read("examples.jsonl") if self.num_shown else []:
            examples.setdefault(record["kind"], []).append(record)
        return [
            self._item(number, record, examples.get(record["kind"], []))
            for number, record in enumerate(self._read("test.jsonl"))
        ]

    def _read(self, file: str) -> list[dict[str, Any]]:
        path = self.data / file
        return [self.checked(place, record) for place, record in records(path, self.source)]

    def _item(self, number: int, record: dict[str, Any], examples: list[dict[str, Any]]) -> Item:
        if len(examples) < self.num_shown:
            raise DataError(
                f"num_examples is {self.num_shown}; {self.data / 'examples.jsonl'} has "
                f"{len(examples)} of the kind {record['kind']!r}"
            )
        return Item(
            f"{number:04d}",
            (self.question(record),),
            group=str(record.get("group", "")),
            category=record["kind"],
            record={**record, "examples": examples[: self.num_shown]},
        )

"""What a judge of conversations is, and the judge that compares words. Knows no data set."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from mtad.errors import JudgeError
from mtad.tasks.rating import HIGHEST, LOWEST

_OUTER: Final = " .,;:!?…'\"`*_“”«»"


@dataclass(frozen=True)
class Grade:
    """The judgment of one turn.

    Attributes:
        rating: from 1 to 10; None where no rating could be read.
        judgment: the judge's words.
        problem: why there is no rating.
        in_single_brackets: whether the rating was found only in single brackets; see `Rating`.
    """

    rating: float | None
    judgment: str
    problem: str = ""
    in_single_brackets: bool = False


@dataclass(frozen=True)
class Asked:
    """The prompt of a judge: the name of its form, and the text."""

    form: str
    user_prompt: str


@dataclass(frozen=True)
class Turn:
    """One turn to grade, with the conversation before it.

    Attributes:
        question: the user messages, one per turn.
        answers: the assistant messages, one per turn.
        number: of the turn, from 1.
        reference: the right answers, None where the judge is to do without.
    """

    question: Sequence[str]
    answers: Sequence[str]
    number: int
    reference: Sequence[str] | None = None


class Judge(ABC):
    """Grades one turn of a conversation; may be called from several threads."""

    def check(self) -> None:  # noqa: B027 - most judges need nothing
        """Raise now what grading would raise later."""

    @abstractmethod
    def ask(self, turn: Turn) -> Asked:
        """The prompt about the turn."""

    @abstractmethod
    def grade(self, turn: Turn) -> Grade:
        """The grade of the turn."""


@dataclass(frozen=True)
class ReferenceJudge(Judge):
    """10 for the words of the reference answer, 1 for any others.

    Letter case, spacing and punctuation around the text do not count. It knows nothing of style or
    of being helpful, and takes a right answer in other words for a wrong one.
    """

    def ask(self, turn: Turn) -> Asked:
        """The reference answer."""
        return Asked("same-words", _reference_of(turn))

    def grade(self, turn: Turn) -> Grade:
        """10 or 1."""
        if _plain(turn.answers[turn.number - 1]) == _plain(_reference_of(turn)):
            return Grade(HIGHEST, "the words of the reference answer")
        return Grade(LOWEST, "not the words of the reference answer")


def _reference_of(turn: Turn) -> str:
    if turn.reference is None:
        raise JudgeError("the judge 'reference' needs reference answers; there are none")
    return turn.reference[turn.number - 1]


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).strip(_OUTER)

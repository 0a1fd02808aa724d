"""Closed book: questions with short answers, from what the model has in its weights."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from mtad.core.prompt import Prompt
from mtad.errors import DataError
from mtad.tasks.answers import blocks, without_reasoning
from mtad.tasks.few_shot import FewShotByKind, few_shot
from mtad.tasks.task import Item, Score

_LABEL: Final = re.compile(
    r"\A(?:the )?(?:final |correct )?answer(?: to (?:this|the) question)?(?: is)?\s*:?\s+",
    re.IGNORECASE,
)
_ARTICLE: Final = re.compile(r"\A(?:the|a|an)\s+")
_MARKS: Final = re.compile(r"[*_`\"“”\u2018\u2019«»]+")
_STATES: Final = re.compile(r"\s(?:is|are|was|were)\s(?:called\s)?|\s*:\s+")
_NEGATION: Final = re.compile(r"\b(?:not|never|neither|nor)\b|n't\b")
_END: Final = re.compile(r"[.!?](?=\s|\Z)|\n|;|,(?=\s(?:which|who|and|but|a|an|the)\b)|\s\(|\sor\s")
_AUTHOR: Final = re.compile(r"\bby\s+")
_ADVERB: Final = re.compile(r"\A(?:actually|mainly|officially|predominantly|primarily)\s+")
_ABBREVIATED: Final = re.compile(r"(?:\A|[\s.])(?:\w|st|dr|mr|mrs)\Z", re.IGNORECASE)
_MAX_SHOWN: Final = 200
_NUM_EXAMPLES: Final = 3


@dataclass(frozen=True)
class ClosedBook(FewShotByKind):
    """Questions of one right answer: capitals, symbols, authors, opposites, plurals and the like.

    The folder holds `test.jsonl` with one object a line: `kind`, `group`, `question`, and
    `answers`, all that are right. Questions of one group stay on one side of the split.
    `examples.jsonl` has solved questions, which are shown before those of their kind.

    An answer is right if what it states equals one of the answers: its first sentence, or the side
    of it that stands before or behind "is", or the name behind "by", compared without case,
    accents, articles, marks and punctuation. A sentence with a negation is compared as a whole.

    Attributes:
        chat: ask through the chat template; False in plain text, for models without one.
        num_examples: solved questions of the same kind before the question; None for none in a chat
            and three in plain text. Small chat models answer worse after examples.
    """

    name: ClassVar[str] = "closed_book"
    metric: ClassVar[str] = "exact match"
    source: ClassVar[str] = "this project's recipes/bundled_tasks/closed_book.py"
    text_stops: ClassVar[tuple[str, ...]] = ("\n",)

    def __post_init__(self) -> None:
        """Fill in and check the number of examples."""
        if self.num_examples is None:
            object.__setattr__(self, "num_examples", 0 if self.chat else _NUM_EXAMPLES)
        super().__post_init__()

    @staticmethod
    def question(record: Mapping[str, Any]) -> str:
        """The question as it stands in the record."""
        return str(record["question"])

    def prompt(self, item: Item, answers: Sequence[str]) -> Prompt:
        """The solved questions and the question."""
        label = "" if self.chat else "Question: "
        solved = [(label + e["question"], e["answers"][0]) for e in item.record["examples"]]
        return few_shot(solved, label + item.turns[0], "Answer:", chat=self.chat)

    def score(self, item: Item, answers: Sequence[str]) -> Score:
        """1 if what the answer states is one of the right answers, else 0."""
        found = stated(answers[0])
        right = {normalised(answer) for answer in item.record["answers"]}
        return Score(float(bool(right & {*found})), {"stated": [f[:_MAX_SHOWN] for f in found]})

    @staticmethod
    def checked(place: str, record: dict[str, Any]) -> dict[str, Any]:
        """The record, if it has a kind, a question and answers."""
        question, answers = record.get("question"), record.get("answers")
        if not isinstance(record.get("kind"), str):
            raise DataError(f"{place}: kind is {record.get('kind')!r}; expected a text")
        if not isinstance(question, str) or not question.strip():
            raise DataError(f"{place}: question is {question!r}; expected a text")
        if not isinstance(answers, list) or not answers:
            raise DataError(f"{place}: answers is {answers!r}; expected a list of texts")
        if bad := [a for a in answers if not isinstance(a, str) or not normalised(a)]:
            raise DataError(
                f"{place}: answers has {bad[0]!r}; expected texts with a letter or digit"
            )
        return record


def stated(answer: str) -> list[str]:
    """What an answer may state, normalised: its first sentence, and the sides of its "is"."""
    text = without_reasoning(answer).strip()
    text = next((block.text for block in blocks(text)), text).strip()
    text = _LABEL.sub("", _MARKS.sub("", text)).strip()
    sentence = _sentence(text)
    sides = [] if _NEGATION.search(sentence) else _STATES.split(sentence)
    written = [_STATES.split(part)[0] for part in _AUTHOR.split(sentence)[1:] if sides]
    return [
        *dict.fromkeys(filter(None, map(normalised, [sentence, *sides[:1], *sides[-1:], *written])))
    ]


def _sentence(text: str) -> str:
    """The text to its first end; a point that ends an abbreviation such as "H. G." is none."""
    for end in _END.finditer(text):
        if end[0] != "." or not _ABBREVIATED.search(text[: end.start()]):
            return text[: end.start()]
    return text


def normalised(text: str) -> str:
    """The text in small letters without accents, article, adverb, dots and punctuation."""
    plain = unicodedata.normalize("NFKD", text.casefold())
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    plain = re.sub(r"[.'\u2019]", "", plain.replace("ł", "l").replace("đ", "d"))
    plain = re.sub(r"[^\w]+", " ", plain).strip()
    return _ARTICLE.sub("", _ADVERB.sub("", plain))

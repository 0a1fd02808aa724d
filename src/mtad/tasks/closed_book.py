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
from mtad.tasks.few_shot import few_shot, require_count
from mtad.tasks.records import records
from mtad.tasks.task import Item, Score, Task

_STOPS: Final = ("\n",)
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
class ClosedBook(Task):
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

    chat: bool = True
    num_examples: int | None = None

    name: ClassVar[str] = "closed_book"
    metric: ClassVar[str] = "exact match"
    source: ClassVar[str] = "this project's recipes/bundled_tasks/closed_book.py"

    def __post_init__(self) -> None:
        """Fill in and check the number of examples."""
        if self.num_examples is None:
            object.__setattr__(self, "num_examples", 0 if self.chat else _NUM_EXAMPLES)
        require_count(self._count)

    @property
    def _count(self) -> int:
        return self.num_examples or 0

    @property
    def stops(self) -> tuple[str, ...]:  # type: ignore[override]
        """The end of the line; none where the chat template ends an answer."""
        return () if self.chat else _STOPS

    def prompts(self) -> list[Item]:
        """The questions in the order of the file, with the solved ones of their kind in the record.

        Raises:
            DataError: a file is missing or damaged, or there are too few examples of a kind.
        """
        examples: dict[str, list[dict[str, Any]]] = {}
        for record in self._read("examples.jsonl") if self._count else []:
            examples.setdefault(record["kind"], []).append(record)
        return [
            self._item(number, record, examples.get(record["kind"], []))
            for number, record in enumerate(self._read("test.jsonl"))
        ]

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

    def _item(self, number: int, record: dict[str, Any], examples: list[dict[str, Any]]) -> Item:
        if len(examples) < self._count:
            raise DataError(
                f"num_examples is {self._count}; {self.data / 'examples.jsonl'} has "
                f"{len(examples)} of the kind {record['kind']!r}"
            )
        shown = examples[: self._count]
        return Item(
            f"{number:04d}",
            (record["question"],),
            group=str(record.get("group", "")),
            category=record["kind"],
            record={**record, "examples": shown},
        )

    def _read(self, file: str) -> list[dict[str, Any]]:
        path = self.data / file
        return [_checked(place, record) for place, record in records(path, self.source)]


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


def _checked(place: str, record: Mapping[str, Any]) -> dict[str, Any]:
    question, answers = record.get("question"), record.get("answers")
    if not isinstance(record.get("kind"), str):
        raise DataError(f"{place}: kind is {record.get('kind')!r}; expected a text")
    if not isinstance(question, str) or not question.strip():
        raise DataError(f"{place}: question is {question!r}; expected a text")
    if not isinstance(answers, list) or not answers:
        raise DataError(f"{place}: answers is {answers!r}; expected a list of texts")
    if bad := [a for a in answers if not isinstance(a, str) or not normalised(a)]:
        raise DataError(f"{place}: answers has {bad[0]!r}; expected texts with a letter or digit")
    return dict(record)

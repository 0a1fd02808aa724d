"""Spec-Bench: prompts of many kinds, for speed alone. Its own scripts read the exported answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Final

from annotated_types import Ge

from mtad.tasks import fastchat
from mtad.tasks.conversation import Conversation
from mtad.tasks.task import Exported, Item, Score, file_name

_SOURCE: Final = "https://github.com/hemingkx/Spec-Bench, data/spec_bench"


@dataclass(frozen=True)
class SpecBench(Conversation):
    """The 480 questions of Spec-Bench, in 13 categories, of one or two turns.

    They are MT-Bench's 80 and 80 each of translation, summarization, question answering,
    mathematical reasoning and retrieval-augmented generation. Nothing is scored.

    Attributes:
        per_category: how many questions of each category, in the order of the file; 0 is all.
        skip_per_category: how many of each come before them, such as those that options were
            chosen by.
    """

    per_category: Annotated[int, Ge(0)] = 0
    skip_per_category: Annotated[int, Ge(0)] = 0

    name: ClassVar[str] = "spec_bench"
    metric: ClassVar[str] = "no score"
    rules: ClassVar[int] = 2
    source: ClassVar[str] = (
        "Xia et al., Unlocking Efficiency in Large Language Model Inference: A Comprehensive "
        f"Survey of Speculative Decoding, 2024; {_SOURCE}"
    )

    def prompts(self) -> list[Item]:
        """The questions in the order of the file."""
        seen: Counter[str] = Counter()
        items = []
        for line in fastchat.questions(self.data, _SOURCE):
            category = line["category"]
            if self._is_wanted(seen[category]):
                id_, turns = str(line["question_id"]), (*line["turns"],)
                items.append(Item(id_, turns, category=category, record=line))
            seen[category] += 1
        return items

    def _is_wanted(self, place: int) -> bool:
        """Whether the question with this place in its category, from 0, belongs to the sample."""
        first = self.skip_per_category
        return first <= place and (not self.per_category or place < first + self.per_category)

    def score(self, item: Item, answers: Sequence[str]) -> Score:
        """No score: only the speed counts, which tables by category may show."""
        detail = {"problem": "this task measures speed alone", "category": item.category}
        return Score(None, detail)

    def export(self, run: str, samples: Mapping[str, Sequence[Exported]]) -> dict[str, str]:
        """The file of answers that Spec-Bench's `evaluation/speed.py` reads."""
        rows = [fastchat.answer_row(run, group) for group in samples.values() if group]
        return {f"spec_bench/model_answer/{file_name(run)}.jsonl": fastchat.jsonl(rows)}

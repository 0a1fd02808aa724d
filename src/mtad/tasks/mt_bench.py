"""MT-Bench: questions of one turn or more, whose answers a judge rates from 1 to 10.

Reads FastChat's files. Knows nothing of how a judge comes to its rating.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any, ClassVar, Final

from mtad.errors import JudgeError
from mtad.tasks import fastchat
from mtad.tasks.answers import without_reasoning
from mtad.tasks.conversation import Conversation
from mtad.tasks.endpoint_judge import DEFAULT_KEY_ENV, EndpointJudge
from mtad.tasks.judge import Grade, Judge, ReferenceJudge, Turn
from mtad.tasks.task import BUNDLED, Exported, Item, Score, file_name

REFERENCE_JUDGE: Final = "reference"

_NEED_REFERENCE: Final = frozenset({"math", "reasoning", "coding", "arena-hard-200"})
# far beyond what a judge is allowed to write
_MAX_JUDGMENT: Final = 20_000
_SOURCE: Final = "https://github.com/lm-sys/FastChat, fastchat/llm_judge/data/mt_bench"


@dataclass(frozen=True)
class MTBench(Conversation):
    """Questions in FastChat's form; a score is the mean rating of its turns, from 1 to 10.

    Turns whose judgment has no rating are left out of the means, as in FastChat's `show_result`.
    The judge sees answers without their reasoning.

    Attributes:
        judge: "" for none (answers only; the bundled set takes "reference" then), "reference" for
            comparison with the reference answers word for word, else the name of a model at an
            OpenAI-compatible endpoint.
        judge_base_url: the endpoint; None for OPENAI_BASE_URL, else OpenAI's own.
        judge_api_key_env: the environment variable that holds the key.
        judge_max_retries: further tries after a time-out, a rate limit or a server's error.
        judge_timeout_s: seconds that one try may take in all.
    """

    judge: str = ""
    judge_base_url: str | None = None
    judge_api_key_env: str = DEFAULT_KEY_ENV
    judge_max_retries: int = 5
    judge_timeout_s: float = 60.0

    name: ClassVar[str] = "mt_bench"
    metric: ClassVar[str] = "score"
    scale: ClassVar[tuple[float, float]] = (1.0, 10.0)
    is_waiting: ClassVar[bool] = True
    source: ClassVar[str] = (
        f"Zheng et al., Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena, 2023; {_SOURCE}"
    )

    def __post_init__(self) -> None:
        """Refuse impossible numbers; the bundled set brings a reference for every turn."""
        if not self.judge and self.data == BUNDLED / self.name:
            object.__setattr__(self, "judge", REFERENCE_JUDGE)
        if self.judge_max_retries < 0:
            raise ValueError(f"judge_max_retries is {self.judge_max_retries}; allowed: 0 or more")
        if not self.judge_timeout_s > 0:
            raise ValueError(f"judge_timeout_s is {self.judge_timeout_s}; allowed: more than 0")

    def prompts(self) -> list[Item]:
        """The questions; their records have `reference`, None where there is none."""
        asked = fastchat.questions(self.data, _SOURCE)
        answers = fastchat.references(self.data, self.judge, _SOURCE)
        return [_item(line, answers) for line in asked]

    def score(self, item: Item, answers: Sequence[str]) -> Score:
        """The mean rating of the turns that have one, None where none has.

        Raises:
            JudgeError: there is no judge, it lacks a reference answer, or it cannot be reached.
        """
        judge, turns = self._judge, self._turns(item, answers)
        if len(answers) != len(item.turns):
            problem = f"{len(answers)} answers to {len(item.turns)} turns"
            return Score(None, {"judge": self.judge, "problem": problem})
        return self._score([judge.grade(turn) for turn in turns])

    def _turns(self, item: Item, answers: Sequence[str]) -> list[Turn]:
        """What the judge sees, turn by turn."""
        reference, answers = self._reference(item), [*map(without_reasoning, answers)]
        return [Turn(item.turns, answers, n, reference) for n in range(1, len(answers) + 1)]

    def _score(self, grades: Sequence[Grade]) -> Score:
        ratings = [grade.rating for grade in grades if grade.rating is not None]
        detail: dict[str, Any] = {
            "judge": self.judge,
            "ratings": [grade.rating for grade in grades],
            "judgments": [grade.judgment[-_MAX_JUDGMENT:] for grade in grades],
        }
        if doubtful := [n for n, grade in enumerate(grades, 1) if grade.in_single_brackets]:
            detail["in_single_brackets"] = doubtful
        problems = [f"turn {n}: {g.problem}" for n, g in enumerate(grades, 1) if g.rating is None]
        if problems:
            detail["problem"] = "; ".join(problems)
        return Score(fmean(ratings) if ratings else None, detail)

    def check(self) -> None:
        """Refuse where there is no judge, no key, or a reference answer is missing.

        Raises:
            JudgeError: says which options to set.
        """
        judge = self._judge
        for item in self.prompts():
            self._reference(item)
        judge.check()

    @cached_property
    def _judge(self) -> Judge:
        if not self.judge:
            raise JudgeError(
                "MT-Bench's answers need a judge and none is set; set judge to 'reference' (word "
                "for word against the reference answers) or to the name of a model, with "
                "judge_base_url and judge_api_key_env for its OpenAI-compatible endpoint"
            )
        if self.judge == REFERENCE_JUDGE:
            return ReferenceJudge()
        return EndpointJudge(
            self.judge,
            self.judge_base_url,
            self.judge_api_key_env,
            self.judge_max_retries,
            self.judge_timeout_s,
        )

    def _reference(self, item: Item) -> Sequence[str] | None:
        """The reference answers that the judge gets to see, None where it judges without."""
        is_needed = self.judge == REFERENCE_JUDGE or item.category in _NEED_REFERENCE
        if not is_needed:
            return None
        found: Sequence[str] = item.record.get("reference") or ()
        if len(found) < len(item.turns) or not all(isinstance(t, str) and t.strip() for t in found):
            raise JudgeError(
                f"question {item.id} ({item.category}) has no reference answer for every turn, and "
                f"the judge {self.judge!r} needs them; put them into "
                f"{self.data / 'reference_answer'}, one JSON object per line"
            )
        return found

    def more(self, scores: Mapping[str, Sequence[Score]]) -> dict[str, float]:
        """Mean ratings of each turn, and how many judgments have none or a doubtful one."""
        details = [score.detail for group in scores.values() for score in group]
        rows = [detail.get("ratings", ()) for detail in details]
        metrics = {
            "unparsed_judgments": float(sum(list(row).count(None) for row in rows)),
            "ratings_in_single_brackets": float(
                sum(len(detail.get("in_single_brackets", ())) for detail in details)
            ),
        }
        for turn in range(max(map(len, rows), default=0)):
            rated = [row[turn] for row in rows if len(row) > turn and row[turn] is not None]
            if rated:
                metrics[f"turn_{turn + 1}"] = fmean(rated)
        return metrics

    def export(self, run: str, samples: Mapping[str, Sequence[Exported]]) -> dict[str, str]:
        """FastChat's files of answers and, where there is a judge, of judgments."""
        groups = [group for group in samples.values() if group]
        stem = file_name(run)
        answers = fastchat.jsonl(fastchat.answer_row(run, group) for group in groups)
        files = {f"mt_bench/model_answer/{stem}.jsonl": answers}
        rows = [row for group in groups for one in group for row in self._judgment_rows(run, one)]
        if rows:
            files[f"mt_bench/model_judgment/{stem}_single.jsonl"] = fastchat.jsonl(rows)
        return files

    def _judgment_rows(self, run: str, sample: Exported) -> list[dict[str, Any]]:
        """One row per turn; none where the sample was not judged."""
        if sample.score is None or "ratings" not in sample.score.detail:
            return []
        rows = []
        for turn in self._turns(sample.item, sample.answers):
            asked = self._judge.ask(turn)
            by = (self.judge, asked.form)
            rows.append(fastchat.judgment_row(run, sample, turn.number, by, asked.user_prompt))
        return rows


def _item(line: dict[str, Any], answers: Mapping[str, list[str]]) -> Item:
    number = str(line["question_id"])
    record = line | {"reference": answers.get(number) or line.get("reference")}
    return Item(number, tuple(line["turns"]), category=line["category"], record=record)

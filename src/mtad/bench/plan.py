"""What a recipe asks for, as values: the pair, how much is decoded, the tasks and the runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mtad.model.settings import Weights
from mtad.pairs import DEMO
from mtad.speculative.method import Method
from mtad.tasks import Task


@dataclass(frozen=True)
class PairSpec:
    """The models to load, as `load_pair` takes them; the target may be the name of a pair."""

    target: str = DEMO
    draft: str | None = None
    dtype: str = "auto"
    draft_dtype: str | None = None
    target_weights: Weights = "auto"
    draft_weights: Weights = "auto"
    device: str = "auto"
    draft_device: str | None = None
    device_map: str | None = None
    trust_vocabulary: bool = False


@dataclass(frozen=True)
class Plan:
    """How much is decoded, and how.

    Attributes:
        seeds: samples per test item of runs that draw at random; greedy ones need one.
        dev_seeds: the same for items that options are chosen by.
        timed_seeds: of them, how many are decoded at `batch_size` with all runs taking turns; only
            their times are compared.
        batch_size: prompts decoded at once while times are taken.
        untimed_batch_size: prompts decoded at once otherwise; a text does not depend on it.
        max_new_tokens: budget of every answer.
        num_dev: items per task that options are chosen by.
        num_test: items per task that are reported; 0 is all that are left.
        time_limit_s: a run's timed seconds per task, after which it gets no more items; 0 is off.
        num_threads: of torch; 0 leaves it alone.
        phases: measure draft, target, verify and commit apart.
        perplexity: measure the likelihood of the outputs under the target.
    """

    seeds: int = 1
    dev_seeds: int = 1
    timed_seeds: int = 1
    batch_size: int = 1
    untimed_batch_size: int = 32
    max_new_tokens: int = 128
    num_dev: int = 0
    num_test: int = 0
    time_limit_s: float = 0.0
    num_threads: int = 0
    phases: bool = False
    perplexity: bool = True

    def __post_init__(self) -> None:
        """Refuse impossible numbers."""
        for name in ("seeds", "dev_seeds", "batch_size", "untimed_batch_size", "max_new_tokens"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("timed_seeds", "num_dev", "num_test", "time_limit_s", "num_threads"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")


@dataclass(frozen=True)
class TaskPlan:
    """A task and how many of its items are used, with which budget."""

    task: Task
    num_dev: int
    num_test: int
    max_new_tokens: int

    def __post_init__(self) -> None:
        """Refuse impossible numbers."""
        for name, least in (("num_dev", 0), ("num_test", 0), ("max_new_tokens", 1)):
            value, where = getattr(self, name), f"tasks.{self.task.name}.{name}"
            require(value >= least, where, value, f"at least {least}")


@dataclass(frozen=True)
class Point:
    """One setting of a run: a label and the method with its options."""

    label: str
    method: Method


@dataclass(frozen=True)
class Run:
    """One row of the tables.

    Attributes:
        name: the label.
        points: its settings; if several, the best on the dev items is reported.
        choose: what the best one is: "quality" (then speed), or "speed".
        sampling: the sampling options, but for the budget.
        models: "pair", or "draft" where the draft answers alone.
        tasks: names of the tasks it takes part in.
    """

    name: str
    points: tuple[Point, ...]
    choose: Literal["quality", "speed"]
    sampling: Mapping[str, Any]
    models: Literal["pair", "draft"]
    tasks: tuple[str, ...]

    @property
    def is_tuned(self) -> bool:
        """Whether there is something to choose."""
        return len(self.points) > 1

    @property
    def is_random(self) -> bool:
        """Whether another seed gives another text."""
        return float(self.sampling.get("temperature", 1.0)) > 0


@dataclass(frozen=True)
class Recipe:
    """All of it. `table` is the TOML that it came from, overrides applied."""

    name: str
    pair: PairSpec
    plan: Plan
    tasks: Mapping[str, TaskPlan]
    runs: tuple[Run, ...]
    reference: str
    table: Mapping[str, Any] = field(repr=False, compare=False)

    @property
    def reference_run(self) -> Run:
        """The run that the others are compared with."""
        return next(run for run in self.runs if run.name == self.reference)


def require(fine: bool, name: str, value: Any, allowed: str) -> None:
    """Refuse an impossible value.

    Raises:
        ValueError: with its name, the value and what is allowed.
    """
    if not fine:
        raise ValueError(f"{name} is {value!r}; it must be {allowed}")

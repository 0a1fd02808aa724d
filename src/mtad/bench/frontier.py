"""The lossy dial as a recipe: every threshold of a method, beside what loses nothing and greedy.

Knows nothing of how settings are chosen; see `frontier_choice`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mtad.bench.checks import read_items
from mtad.bench.files import RECIPE, read_json
from mtad.bench.plan import Recipe
from mtad.bench.recipe import BUNDLED_NAME, label, parse
from mtad.bench.split import TEST
from mtad.bench.statistics import MIN_ITEMS
from mtad.errors import DataError
from mtad.methods import find, names
from mtad.speculative.facts import Dial

REFERENCE: Final = "autoregressive"
LOSSLESS: Final = "speculative_sampling, lossless"
PROMPTS_TASK: Final = "perplexity"
_GREEDY: Final = {"temperature": 0.0}


def dial_of(method: str) -> Dial:
    """The dial of the method called `method`.

    Raises:
        ValueError: it has none; the message lists those that have one.
    """
    dial = find(method).dial
    if dial is None:
        known = ", ".join(name for name in names() if find(name).dial is not None)
        raise ValueError(
            f"method {method!r} has no threshold to move; those that have one: {known}"
        )
    return dial


@dataclass(frozen=True)
class Sweep:
    """What is to be swept.

    Attributes:
        pair: fields of `PairSpec`; without a target it is the embedded pair.
        task: the name of a task.
        task_options: fields of the task; its folder is `data` in them or, else, in `data`.
        data: "bundled", or the folder with one folder per task.
        methods: names of methods with a dial.
        options: the fixed options of each of them.
        thresholds: for every method; the dial's own values if empty.
        num_items: how many items are used; 0 is all.
        seeds: samples per item; the first is timed.
        sampling: of all runs but the greedy ones.
        max_new_tokens: budget of every answer.
    """

    pair: Mapping[str, Any] = field(default_factory=dict)
    task: str = "spider"
    task_options: Mapping[str, Any] = field(default_factory=dict)
    data: str = BUNDLED_NAME
    methods: tuple[str, ...] = ("mtad",)
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    thresholds: tuple[float, ...] = ()
    num_items: int = 0
    seeds: int = 3
    sampling: Mapping[str, Any] = field(default_factory=dict)
    max_new_tokens: int = 128

    def __post_init__(self) -> None:
        """Refuse pairs without a draft, thresholds given twice, and too few items."""
        if bool(self.pair.get("target")) != bool(self.pair.get("draft")):
            raise ValueError("only one of target and draft model is given; give both or neither")
        for values, name in ((self.methods, "methods"), (self.thresholds, "thresholds")):
            if len({*values}) < len(values):
                raise ValueError(f"{name} are {values}; each may be given once")
        if self.num_items and self.num_items < MIN_ITEMS:
            raise ValueError(
                f"{self.num_items} items are too few for intervals; give {MIN_ITEMS} or more, "
                "or 0 for all"
            )

    def recipe(self) -> Recipe:
        """The sweep as a recipe.

        Raises:
            ValueError: an unknown task, method or option, or a value that is out of range.
        """
        return parse(
            {
                "name": f"frontier-{self._subject}",
                "pair": self._pair,
                "data": self.data,
                "reference": REFERENCE,
                "run": self._plan,
                "sampling": dict(self.sampling),
                "tasks": {self.task: dict(self.task_options)},
                "runs": [*self._baselines(), *self._points()],
            }
        )

    @property
    def _subject(self) -> str:
        if self.task == PROMPTS_TASK and "data" in self.task_options:
            return Path(self.task_options["data"]).stem
        return self.task

    @property
    def _is_demo(self) -> bool:
        return not self.pair.get("target")

    @property
    def _pair(self) -> dict[str, Any]:
        """The given fields; the embedded pair is fastest in float32 where nothing else is asked."""
        given = {name: value for name, value in self.pair.items() if value is not None}
        return {"dtype": "float32", **given} if self._is_demo else given

    @property
    def _plan(self) -> dict[str, Any]:
        return {
            "seeds": self.seeds,
            "num_test": self.num_items,
            "max_new_tokens": self.max_new_tokens,
            # models as small as the embedded ones lose time to the handing-over of work
            "num_threads": 1 if self._is_demo else 0,
        }

    def _baselines(self) -> list[dict[str, Any]]:
        lossless = {"name": LOSSLESS, "method": "speculative_sampling"}
        plain: list[dict[str, Any]] = [{"name": REFERENCE, "method": "autoregressive"}, lossless]
        if self.sampling.get("temperature") == 0:
            return plain  # greedy already
        greedy = [
            {"name": f"{method}, greedy", "method": method, "sampling": _GREEDY}
            for method in ("autoregressive", "speculative_sampling")
        ]
        return [*plain, *greedy]

    def _points(self) -> list[dict[str, Any]]:
        """One run per method and threshold."""
        rows = []
        for method in self.methods:
            dial = dial_of(method)
            fixed = dict(self.options.get(method, {}))
            if dial.option in fixed:
                raise ValueError(f"{dial.option} is what moves; give --thresholds instead of -o")
            for value in self.thresholds or dial.values:
                options = {**fixed, dial.option: value}
                name = label(method, {dial.option: value})
                rows.append({"name": name, "method": method, "options": options})
        return rows


def check(recipe: Recipe, folder: Path) -> None:
    """Refuse at once what would be refused after hours.

    Args:
        recipe: the sweep.
        folder: where the results go.

    Raises:
        ValueError: fewer items than intervals need.
        DataError: the data set is missing, or the folder has the results of something else.
        IsolationError, JudgeError: scoring is not allowed or not possible.
    """
    for name, items in read_items(recipe)[TEST].items():
        recipe.tasks[name].task.check()
        if len(items) < MIN_ITEMS:
            raise ValueError(
                f"{name} has {len(items)} items, too few for intervals; give {MIN_ITEMS} or more"
            )
    before, now = read_json(folder / RECIPE), recipe.table
    if before and (before_is := _subject(before)) != _subject(now):
        raise DataError(
            f"{folder} has the results of another sweep ({before_is}; now {_subject(now)}); give "
            "another --output"
        )


def _subject(table: Mapping[str, Any]) -> dict[str, Any]:
    """What rows of one folder must share: the models, and the prompts of the task."""
    tasks = {
        name: {key: options.get(key) for key in ("data", "chat") if key in options}
        for name, options in table["tasks"].items()
    }
    return {"pair": table.get("pair"), "data": table.get("data"), "tasks": tasks}

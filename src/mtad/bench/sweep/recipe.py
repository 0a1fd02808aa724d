"""A sweep as a recipe: every value of a method's dial, beside lossless, cooler and greedy decoding.

Knows no results: `mtad.bench.sweep.choice` judges them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from mtad.bench.checks import read_items
from mtad.bench.files import RECIPE, read_json
from mtad.bench.plan import Recipe
from mtad.bench.recipe import parse
from mtad.bench.split import TEST
from mtad.bench.statistics import MIN_ITEMS
from mtad.errors import DataError
from mtad.methods import find, names
from mtad.speculative.facts import Dial

REFERENCE: Final = "autoregressive"
LOSSLESS: Final = "speculative_sampling, lossless"
_SAMPLING: Final = (
    {"name": REFERENCE, "method": "autoregressive"},
    {"name": LOSSLESS, "method": "speculative_sampling"},
)
_GREEDY: Final = tuple(
    {"name": f"{method}, greedy", "method": method, "sampling": {"temperature": 0.0}}
    for method in ("autoregressive", "speculative_sampling")
)
_COOLER: Final = (0.3, 0.5, 0.7)
"""Shares of the temperature at which plain sampling is decoded, too."""


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


def sweep(
    table: Mapping[str, Any],
    methods: Mapping[str, Mapping[str, Any]],
    thresholds: Sequence[float] = (),
) -> Recipe:
    """The recipe that sweeps the methods.

    Args:
        table: a recipe's table without runs, with one task. Without a target it is the embedded
            pair, which is fastest in float32 and on one thread: models as small as these lose
            time to the handing-over of work.
        methods: the fixed options of each method, by name.
        thresholds: values of every dial; its own if there are none.

    Raises:
        ValueError: an unknown name, a value that is out of range, or only one model of the pair.
    """
    pair, plan = table.get("pair", {}), table.get("run", {})
    if ("target" in pair) != ("draft" in pair):
        raise ValueError("only one of target and draft model is given; give both or neither")
    if "target" not in pair:
        pair, plan = {"dtype": "float32", **pair}, {"num_threads": 1, **plan}
    heat = table.get("sampling", {}).get("temperature", 1.0)
    plain, *others = _SAMPLING
    cooler = {"temperatures": [round(heat * share, 3) for share in _COOLER]}
    swept = [_swept(method, fixed, thresholds) for method, fixed in methods.items()]
    beside = [plain | cooler, *others, *_GREEDY] if heat else _SAMPLING
    runs = [*beside, *swept]
    return parse({**table, "pair": pair, "run": plan, "reference": REFERENCE, "runs": runs})


def _swept(method: str, fixed: Mapping[str, Any], thresholds: Sequence[float]) -> dict[str, Any]:
    """Every value of a method's dial."""
    dial = dial_of(method)
    if dial.option in fixed:
        raise ValueError(f"{dial.option} is what moves; give --thresholds instead of -o")
    grid = {dial.option: [*(thresholds or dial.values)]}
    return {"method": method, "options": dict(fixed), "grid": grid, "choose": "all"}


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
                f"{len(items)} items of {name} are too few for intervals; give {MIN_ITEMS} or more"
            )
    before, now = read_json(folder / RECIPE), recipe.table
    if before and (before_is := _shared(before)) != _shared(now):
        raise DataError(
            f"{folder} has the results of another sweep ({before_is}; now {_shared(now)}); give "
            "another --output"
        )


def _shared(table: Mapping[str, Any]) -> dict[str, Any]:
    """What all rows of one folder must share: the models, and the prompts of the task."""
    tasks = {
        name: {key: options.get(key) for key in ("data", "chat")}
        for name, options in table["tasks"].items()
    }
    return {"pair": table.get("pair"), "data": table.get("data"), "tasks": tasks}

"""What is left to decode, in which order.

Every run gets the same batches of items. They take turns on each batch, and another one begins each
time, so that a slow minute of the machine hits all of them alike.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mtad.bench.plan import Point, Recipe, Run
from mtad.bench.sample import Key
from mtad.bench.split import DEV
from mtad.tasks import Item

UNTIMED_BATCHES = 4
"""As many untimed items as fill the batch so often make a job: one begins where another ends."""


@dataclass(frozen=True)
class Job:
    """Items for one setting of one run, with one seed.

    Attributes:
        num_rows: of them, decoded at once.
    """

    stage: str
    task: str
    run: Run
    point: Point
    label: str
    seed: int
    items: tuple[Item, ...]
    is_timed: bool
    num_rows: int

    @property
    def keys(self) -> list[Key]:
        """The rows that the job gives."""
        return [(self.stage, self.task, item.id, self.label, self.seed) for item in self.items]

    def without(self, done: Collection[Key]) -> Job | None:
        """The job without the rows that are there already; None if nothing is left."""
        pairs = zip(self.items, self.keys, strict=True)
        items = tuple(item for item, key in pairs if key not in done)
        return Job(**{**vars(self), "items": items}) if items else None


def jobs(
    recipe: Recipe,
    stage: str,
    items: Mapping[str, Sequence[Item]],
    chosen: Mapping[str, Mapping[str, Point]],
) -> Iterator[Job]:
    """All jobs of a stage, timed ones first.

    Args:
        recipe: what was asked for.
        stage: "dev" or "test".
        items: of each task.
        chosen: the point of each tuned run by its name and the task's; not needed for "dev".
    """
    for is_timed in (True, False):
        for name in recipe.tasks:
            settings = _settings(recipe, stage, name, chosen)
            for seed in _seeds(recipe, stage, is_timed):
                num_rows, batches = _batches(recipe, items[name], is_timed)
                for number, batch in enumerate(batches):
                    first = number % len(settings) if settings else 0
                    for run, point, label in settings[first:] + settings[:first]:
                        if _is_wanted(stage, run, seed, is_timed):
                            setting = (stage, name, run, point, label, seed)
                            yield Job(*setting, batch, is_timed, num_rows)


def _is_wanted(stage: str, run: Run, seed: int, is_timed: bool) -> bool:
    """Whether another row says anything new: greedy texts repeat, speed needs only timed rows."""
    if stage == DEV and run.choose == "speed" and not is_timed:
        return False
    return seed == 0 or run.is_random


def _settings(
    recipe: Recipe, stage: str, task: str, chosen: Mapping[str, Mapping[str, Point]]
) -> list[tuple[Run, Point, str]]:
    """The run, its method and the label of its rows, for every row of the table."""
    runs = [run for run in recipe.runs if task in run.tasks]
    if stage == DEV:
        return [(run, p, p.label) for run in runs if run.is_tuned for p in run.points]
    return [
        (run, chosen[run.name][task] if run.is_tuned else run.points[0], run.name) for run in runs
    ]


def _seeds(recipe: Recipe, stage: str, is_timed: bool) -> range:
    plan = recipe.plan
    seeds = plan.dev_seeds if stage == DEV else plan.seeds
    timed = min(plan.timed_seeds, seeds)
    return range(timed) if is_timed else range(timed, seeds)


def _batches(
    recipe: Recipe, items: Sequence[Item], is_timed: bool
) -> tuple[int, list[tuple[Item, ...]]]:
    """Rows decoded at once, and the items of each job."""
    plan = recipe.plan
    num_rows = plan.batch_size if is_timed else plan.untimed_batch_size
    size = num_rows if is_timed else num_rows * UNTIMED_BATCHES
    return num_rows, [tuple(items[start : start + size]) for start in range(0, len(items), size)]

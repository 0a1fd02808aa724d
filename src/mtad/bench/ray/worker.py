"""Decodes jobs on one machine of a cluster, for the run that is elsewhere.

Knows nothing of Ray: its facts for the conditions are given. Touches no file of the results.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mtad
from mtad.bench.checks import Items, check_prompts
from mtad.bench.conditions import fingerprint
from mtad.bench.jobs import Job
from mtad.bench.plan import Recipe
from mtad.bench.run import decode, idle_power, load, make_runner, warm_up
from mtad.bench.runner import JobRunner
from mtad.bench.sample import Sample
from mtad.errors import DataError
from mtad.measure.meter import Meter


class Worker:
    """Holds a pair on one machine of the cluster.

    Args:
        recipe: what is asked for.
        num_neighbours: other workers on the same machine.
        facts: about Ray, for the conditions.
    """

    def __init__(self, recipe: Recipe, num_neighbours: int, facts: dict[str, Any]) -> None:
        self.recipe, self.num_neighbours, self.facts = recipe, num_neighbours, facts
        self._runner: JobRunner | None = None
        self._conditions: dict[str, Any] = {}
        self._warm: set[tuple[str, str]] = set()

    def join(self, version: str, items: Items) -> str:
        """The fingerprint of the pair, loaded; refuses items that do not fit it.

        Raises:
            DataError: another version of mtad asked.
        """
        if version != mtad.__version__:
            raise DataError(
                f"a worker has mtad {mtad.__version__}, and {version} asked it; install one "
                "version on all machines of the cluster"
            )
        pair = load(self.recipe)
        check_prompts(self.recipe, pair, items)
        meter = Meter(None, "other workers share the machine") if self.num_neighbours else None
        self._runner, self._conditions = make_runner(self.recipe, pair, meter, {"ray": self.facts})
        self._conditions["idle_power_w"] = idle_power(self._runner.meter)
        return fingerprint(pair)

    def rows(self, jobs: Sequence[Job]) -> tuple[dict[str, Any], list[list[Sample]]]:
        """The conditions, and the rows of each job; what is timed here for the first time is warm.

        Raises what `JobRunner.samples` raises.
        """
        assert self._runner is not None, "it joins first"
        cold = [job for job in jobs if (job.task, job.label) not in self._warm]
        warm_up(self.recipe, cold, self._runner)
        self._warm |= {(job.task, job.label) for job in cold if job.is_timed}
        return self._conditions, [decode(self.recipe, job, self._runner) for job in jobs]

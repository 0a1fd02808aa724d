"""Decodes a recipe's jobs on the machines of a Ray cluster; the rows come back in their order.

Every worker holds its own pair, loaded once. The timed runs of one batch of items go to one worker
together and take turns there, as on one machine. Ray only starts the workers and carries jobs and
rows; which row is written, and when, is decided by `run`. Knows no file but the conditions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import mtad
from mtad.bench.checks import Items
from mtad.bench.decoder import Decoder, DecoderFactory
from mtad.bench.jobs import Job
from mtad.bench.plan import Recipe
from mtad.bench.ray.placement import Placement, num_cpus, placements, portable
from mtad.bench.ray.worker import Worker
from mtad.bench.run import note_conditions, require_pair
from mtad.bench.sample import Key, Sample
from mtad.cluster import ClusterError, connected, find_ray
from mtad.errors import DataError

AHEAD = 4
"""Rounds per worker that may be under way or waiting for an earlier row; a kill loses them."""
MAX_LOSSES = 3
"""A round that was under way on as many lost workers is not tried again."""


def workers(address: str | None = None) -> DecoderFactory:
    """What makes the worker pool of a cluster for `run`.

    Args:
        address: of the cluster, as for `connected`.
    """

    @contextmanager
    def new_pool(recipe: Recipe) -> Iterator[Decoder]:
        recipe = portable(recipe)
        with connected(address) as ray:
            pool = Pool(ray, recipe, placements(ray, recipe))
            try:
                yield pool
            finally:
                pool.close()

    return new_pool


@dataclass(eq=False)
class _Round:
    """Jobs that one worker decodes one after the other, and what came of them."""

    jobs: list[Job]
    rows: dict[Key, list[Sample]] = field(default_factory=dict)
    conditions: dict[str, Any] = field(default_factory=dict)
    error: Exception | None = None
    num_losses: int = 0
    is_taken: bool = False
    is_over: bool = False


@dataclass(eq=False)
class _Slot:
    """A worker with its latest call; the round is None while the worker joins."""

    place: Placement
    actor: Any
    reference: Any
    round: _Round | None = None


class Pool:
    """Decodes the jobs of a run on the placements of a cluster; see `Decoder`.

    A worker that is lost is started once more on its machine; if that fails too, it is left out,
    and its round goes to another one. No worker gets a round again before the round's last worker
    is known to be lost, and of each round one answer is taken.

    Args:
        ray: the module, connected.
        recipe: what is asked for.
        places: the placements to use.
    """

    def __init__(self, ray: Any, recipe: Recipe, places: Sequence[Placement]) -> None:
        self._ray, self._recipe = ray, recipe
        self._places = list(places)
        self._slots: list[_Slot] = []
        self._rounds: deque[_Round] = deque()
        self._is_wanted: Callable[[Job], bool] = lambda job: True
        self._folder: Path | None = None
        self._fingerprint: str | None = None
        self._items: Any = None
        self._restarted: set[Placement] = set()

    def check(self, items: Items) -> None:
        """Start the workers; wait until one has read the models and found that the items fit."""
        self._items = self._ray.put(items)
        for place in self._places:
            self._start(place)
        while self._fingerprint is None:
            self._collect()

    def open(self, folder: Path) -> None:
        """Refuse a folder that has rows of another pair."""
        assert self._fingerprint is not None, "items are checked first"
        require_pair(folder, self._fingerprint)
        self._folder = folder

    def expect(self, left: Sequence[Job], is_wanted: Callable[[Job], bool]) -> None:
        """Hand out the first rounds."""
        self._rounds, self._is_wanted = deque(map(_Round, rounds(left))), is_wanted
        self._assign()

    def samples(self, job: Job) -> list[Sample]:
        """The rows of a job, waited for; conditions that are new are noted."""
        assert self._folder is not None, "the folder is opened first"
        while job not in self._rounds[0].jobs:
            self._rounds.popleft()
        part = self._rounds[0]
        while not part.is_over:
            self._assign()
            self._collect()
        self._assign()
        if part.error is not None:
            raise part.error
        idle = part.conditions.get("idle_power_w", "unavailable")
        note_conditions(self._folder, part.conditions, lambda: idle)
        return part.rows[job.keys[0]]

    def close(self) -> None:
        """Stop the workers."""
        for slot in self._slots:
            self._ray.kill(slot.actor)
        self._slots.clear()

    def _start(self, place: Placement) -> None:
        strategies = find_ray("ray.util.scheduling_strategies")
        options = {
            "num_cpus": 0 if place.num_gpus else num_cpus(self._recipe),
            "num_gpus": place.num_gpus,
            "max_restarts": 0,
            "scheduling_strategy": strategies.NodeAffinitySchedulingStrategy(
                place.node, soft=False
            ),
        }
        facts = {"version": self._ray.__version__, "workers_on_machine": place.num_neighbours + 1}
        actor = self._ray.remote(Worker).options(**options)
        worker = actor.remote(self._recipe, place.num_neighbours, facts)
        self._slots.append(_Slot(place, worker, worker.join.remote(mtad.__version__, self._items)))

    def _assign(self) -> None:
        """Give every idle worker the first round that no worker has."""
        window = list(islice(self._rounds, AHEAD * len(self._slots)))
        waiting = deque(part for part in window if not part.is_taken)
        for slot in self._slots:
            while waiting and slot.reference is None:
                part = waiting.popleft()
                part.is_taken = True
                part.jobs = [job for job in part.jobs if self._is_wanted(job)]
                part.is_over = not part.jobs
                if part.jobs:
                    slot.round, slot.reference = part, slot.actor.rows.remote(part.jobs)

    def _collect(self) -> None:
        """Wait for the result of one call."""
        if not self._slots:
            raise ClusterError(
                "all workers on the Ray cluster are lost; every row that was written is kept, so "
                "run it again when there are machines"
            )
        busy = {slot.reference: slot for slot in self._slots if slot.reference is not None}
        [done], _ = self._ray.wait(list(busy), num_returns=1)
        slot, part = busy[done], busy[done].round
        slot.reference = slot.round = None
        try:
            found = self._ray.get(done)
        except self._ray.exceptions.RayTaskError as error:
            self._failed(slot, part, error)
        except self._ray.exceptions.RayError as error:
            self._lost(slot, part, error)
        else:
            self._answered(slot, part, found)

    def _answered(self, slot: _Slot, part: _Round | None, found: Any) -> None:
        if part is None:
            self._joined(slot, found)
            return
        part.conditions, rows = found
        part.rows = {job.keys[0]: own for job, own in zip(part.jobs, rows, strict=True)}
        part.is_over = True

    def _joined(self, slot: _Slot, fingerprint: str) -> None:
        self._fingerprint = self._fingerprint or fingerprint
        if fingerprint != self._fingerprint:
            raise DataError(
                f"the worker on {slot.place.address} loaded another pair than the others; put the "
                "same models on all machines of the cluster"
            )

    def _failed(self, slot: _Slot, part: _Round | None, error: Any) -> None:
        """What was raised on a worker: at once if it could not join, else when its row is next."""
        cause = error.cause if isinstance(error.cause, Exception) else error
        if part is None:
            raise cause
        part.error, part.is_over = cause, True

    def _lost(self, slot: _Slot, part: _Round | None, error: Exception) -> None:
        """Leave a worker out and let others have its round."""
        self._slots.remove(slot)
        self._ray.kill(slot.actor)  # it may be alive and only out of reach
        if part is not None:
            part.is_taken, part.num_losses = False, part.num_losses + 1
            if part.num_losses >= MAX_LOSSES:
                names = ", ".join(job.label for job in part.jobs)
                raise ClusterError(
                    f"{MAX_LOSSES} workers died while they decoded {names}: {error}"
                ) from error
        if slot.place not in self._restarted:
            self._restarted.add(slot.place)
            self._start(slot.place)


def rounds(jobs: Sequence[Job]) -> list[list[Job]]:
    """The jobs, those together that are timed on the same items with the same seed."""
    found: list[list[Job]] = []
    for job in jobs:
        if found and job.is_timed and _is_same_batch(found[-1][-1], job):
            found[-1].append(job)
        else:
            found.append([job])
    return found


def _is_same_batch(before: Job, job: Job) -> bool:
    place = (before.is_timed, before.stage, before.task, before.seed)
    same = place == (job.is_timed, job.stage, job.task, job.seed)
    return same and any(item in before.items for item in job.items)

"""A recipe on a Ray cluster gives the file of one machine, whatever becomes of the workers."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support import clusters
from support.benchmarks import BASE
from support.clusters import pull_the_plug, two_machines
from support.command import refused

from mtad.api.pair import ModelPair
from mtad.bench import run as run_module
from mtad.bench.files import read_conditions, read_samples
from mtad.bench.jobs import Job
from mtad.bench.plan import Recipe
from mtad.bench.ray.placement import Placement, placements, portable
from mtad.bench.ray.pool import AHEAD, MAX_LOSSES, Pool, rounds, workers
from mtad.bench.ray.worker import Worker
from mtad.bench.recipe import parse
from mtad.bench.run import run
from mtad.bench.sample import Sample
from mtad.cluster import ClusterError
from mtad.errors import DataError, MtadError

TABLE = BASE | {"run": {"seeds": 2, "num_test": 3, "max_new_tokens": 6, "num_threads": 1}}


def recipe(**changes: Any) -> Recipe:
    return parse({**TABLE, "run": {**TABLE["run"], **changes}})


def decoded_rows(folder: Path) -> list[Any]:
    """All rows of a file in its order, without times and energy."""
    return [
        (
            *(s.key, s.method, s.sampling, s.answers, s.token_ids, s.finish_reasons),
            *(s.batch_size, s.num_prompt_tokens, s.is_timed, s.nll and round(s.nll, 4)),
        )
        for s in read_samples(folder)
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, demo_pair: ModelPair) -> Path:
    """The folder of a run on one machine."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "load", lambda recipe: demo_pair)
        patch.setattr(run_module, "IDLE_S", 0.0)
        run(recipe(), folder)
    return folder


# --- the pool, with a cluster that is made up ----------------------------------------------------


class LostError(Exception):
    """Stands for Ray's error about a worker that is gone."""


class TaskError(LostError):
    """Stands for Ray's error about what a worker raised."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


@dataclass(eq=False)
class Call:
    """What a worker was asked; `outcome` is what it says, made when it is looked at."""

    actor: Actor
    name: str
    arguments: tuple[Any, ...]


@dataclass(eq=False)
class Actor:
    """A worker of the made-up cluster."""

    cluster: FakeRay
    worker: Worker
    is_alive: bool = True

    def __getattr__(self, name: str) -> Any:
        def remote(*arguments: Any) -> Call:
            return Call(self, name, arguments)

        return type("Method", (), {"remote": staticmethod(remote)})


@dataclass
class FakeRay:
    """As much of Ray as the pool uses, in this process; answers come in any order.

    Attributes:
        loses: whether the worker of a call dies of it.
        calls: jobs that workers were given, with the worker's number.
    """

    pair: ModelPair
    seed: int = 0
    loses: Callable[[Call], bool] = lambda call: False
    actors: list[Actor] = field(default_factory=list)
    given: list[tuple[int, list[Job]]] = field(default_factory=list)
    outstanding: int = 0
    __version__: str = "0"

    class exceptions:
        """The errors that the pool knows."""

        RayTaskError = TaskError
        RayError = LostError

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def put(self, value: Any) -> Any:
        return value

    def remote(self, cls: type[Worker]) -> Any:
        def make(*arguments: Any) -> Actor:
            self.actors.append(Actor(self, cls(*arguments)))
            return self.actors[-1]

        made = type("Remote", (), {"remote": staticmethod(make)})
        return type("Options", (), {"options": staticmethod(lambda **_: made)})

    def wait(self, calls: list[Call], num_returns: int) -> tuple[list[Call], list[Call]]:
        assert num_returns == 1
        assert len({id(call.actor) for call in calls}) == len(calls), "one thing at a time"
        return [self._random.choice(calls)], []

    def get(self, call: Call) -> Any:
        if not call.actor.is_alive or self.loses(call):
            call.actor.is_alive = False
            raise LostError("the worker is gone")
        if call.name == "rows":
            self.given.append((self.actors.index(call.actor), list(call.arguments[0])))
        try:
            return getattr(call.actor.worker, call.name)(*call.arguments)
        except MtadError as error:
            raise TaskError(error) from error

    def kill(self, actor: Actor) -> None:
        actor.is_alive = False


@pytest.fixture
def fake(demo_pair: ModelPair, monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    monkeypatch.setattr("mtad.bench.ray.worker.load", lambda recipe: demo_pair)
    monkeypatch.setattr("mtad.bench.ray.pool.find_ray", lambda module: _Strategies)
    monkeypatch.setattr("mtad.bench.ray.worker.decode", decoded_once)
    monkeypatch.setattr("mtad.bench.ray.worker.warm_up", lambda *_: None)
    return FakeRay(demo_pair)


DECODE = run_module.decode
ROWS: dict[Any, list[Sample]] = {}


def decoded_once(recipe: Recipe, job: Job, runner: Any) -> list[Sample]:
    """The rows of a job, decoded once for all tests: they are always the same."""
    key = (recipe.plan.max_new_tokens, job.is_timed, *job.keys)
    if key not in ROWS:
        ROWS[key] = DECODE(recipe, job, runner)
    return ROWS[key]


class _Strategies:
    """Stands for a module of Ray."""

    @staticmethod
    def NodeAffinitySchedulingStrategy(node: str, soft: bool) -> str:
        assert not soft
        return node


def run_on(fake: FakeRay, folder: Path, wanted: Recipe | None = None, **options: Any) -> None:
    """Run the recipe on two workers of the made-up cluster."""
    wanted = wanted or recipe()
    places = [Placement(f"n{i}", f"10.0.0.{i}", 0, 0) for i in range(2)]

    @contextmanager
    def new_pool(recipe: Recipe) -> Iterator[Pool]:
        pool = Pool(fake, recipe, places)
        try:
            yield pool
        finally:
            pool.close()

    run(wanted, folder, new_decoder=new_pool, **options)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_the_file_is_that_of_one_machine(
    fake: FakeRay, whole: Path, tmp_path: Path, seed: int
) -> None:
    fake._random.seed(seed)
    run_on(fake, tmp_path)
    assert decoded_rows(tmp_path) == decoded_rows(whole)
    assert {number for number, _ in fake.given} == {0, 1}
    assert not any(actor.is_alive for actor in fake.actors)  # let go in the end


@pytest.mark.slow
def test_timed_runs_of_one_batch_take_turns_on_one_worker(fake: FakeRay, tmp_path: Path) -> None:
    run_on(fake, tmp_path)
    timed = [jobs for _, jobs in fake.given if jobs[0].is_timed]
    assert sorted(len(jobs) for jobs in timed) == [3, 3, 3]
    for jobs in timed:
        assert len({job.items for job in jobs}) == 1
        assert {job.label for job in jobs} == {"autoregressive", "mtad", "greedy"}
    assert {len(jobs) for _, jobs in fake.given if not jobs[0].is_timed} == {1}


@pytest.mark.slow
def test_every_worker_is_warm_before_it_is_timed(
    fake: FakeRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warm: list[list[str]] = []

    def noted(recipe: Recipe, left: Sequence[Job], runner: Any) -> None:
        warm.append([job.label for job in left if job.is_timed])

    monkeypatch.setattr("mtad.bench.ray.worker.warm_up", noted)
    run_on(fake, tmp_path, recipe(seeds=1))
    assert sorted(map(sorted, filter(None, warm))) == [["autoregressive", "greedy", "mtad"]] * 2


@pytest.mark.slow
@pytest.mark.parametrize("dies_at", [1, 2])
def test_rows_of_a_lost_worker_are_done_by_another(
    fake: FakeRay, whole: Path, tmp_path: Path, dies_at: int
) -> None:
    num_rows = 0

    def loses(call: Call) -> bool:
        nonlocal num_rows
        is_asked = call.name == "rows" and call.actor is fake.actors[1]
        num_rows += is_asked
        return is_asked and num_rows == dies_at

    fake.loses = loses
    run_on(fake, tmp_path)
    assert decoded_rows(tmp_path) == decoded_rows(whole)  # complete, in order, and no row twice
    assert len(fake.actors) == 3  # one was started in its place


@pytest.mark.slow
def test_a_machine_that_stays_away_is_left_out(fake: FakeRay, whole: Path, tmp_path: Path) -> None:
    fake.loses = lambda call: fake.actors.index(call.actor) != 0
    run_on(fake, tmp_path)
    assert decoded_rows(tmp_path) == decoded_rows(whole)
    assert len(fake.actors) == 3


def test_rows_that_kill_every_worker_end_the_run_with_their_name(
    fake: FakeRay, tmp_path: Path
) -> None:
    fake.loses = lambda call: call.name == "rows" and call.arguments[0][0].seed == 1
    message = f"{MAX_LOSSES} workers died while they decoded|all workers on the Ray cluster"
    with pytest.raises(ClusterError, match=message):
        run_on(fake, tmp_path)
    assert {s.seed for s in read_samples(tmp_path)} == {0}


def test_without_any_worker_it_says_what_to_do(fake: FakeRay, tmp_path: Path) -> None:
    fake.loses = lambda call: True
    with pytest.raises(ClusterError, match="every row that was written is kept, so run it again"):
        run_on(fake, tmp_path)


def test_an_error_comes_at_its_turn(
    fake: FakeRay, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    def failing(recipe: Recipe, job: Job, runner: Any) -> list[Sample]:
        if job.seed == 1:
            raise DataError("the seed 1 is unlucky")
        return decoded_once(recipe, job, runner)

    monkeypatch.setattr("mtad.bench.ray.worker.decode", failing)
    with pytest.raises(DataError, match="the seed 1 is unlucky"):
        run_on(fake, tmp_path)
    rows = decoded_rows(tmp_path)
    assert rows == decoded_rows(whole)[: len(rows)]
    assert len(rows) == 9


@pytest.mark.slow
def test_an_interrupted_run_goes_on_elsewhere(
    fake: FakeRay, whole: Path, tmp_path: Path, demo_pair: ModelPair, monkeypatch: Any
) -> None:
    def stop(stage: str, label: str, done: int, total: int) -> None:
        if done >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_on(fake, tmp_path, on_progress=stop)
    assert 4 <= len(read_samples(tmp_path)) < 15
    monkeypatch.setattr(run_module, "load", lambda recipe: demo_pair)
    monkeypatch.setattr(run_module, "decode", decoded_once)
    run(recipe(), tmp_path)
    assert sorted(map(str, decoded_rows(tmp_path))) == sorted(map(str, decoded_rows(whole)))
    assert [("ray" in c) for c in read_conditions(tmp_path).values()] == [True, False]


def test_a_run_that_used_up_its_time_gets_no_more_items(fake: FakeRay, tmp_path: Path) -> None:
    run_on(fake, tmp_path, recipe(seeds=1, time_limit_s=1e-6))
    assert len(read_samples(tmp_path)) == 3  # as on one machine: the first item of each run


@pytest.mark.slow
def test_no_more_than_a_few_rounds_are_ahead(
    fake: FakeRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    def slow_first(
        self: FakeRay, calls: list[Call], num_returns: int
    ) -> tuple[list[Call], list[Call]]:
        """The worker that joined first, and has the first round, is always the last to answer."""
        return [next((call for call in calls if call.name == "join"), calls[-1])], []

    monkeypatch.setattr(FakeRay, "wait", slow_first)
    seen: list[int] = []
    count = lambda stage, label, done, total: seen.append(len(fake.given))  # noqa: E731
    run_on(fake, tmp_path, recipe(seeds=8, num_test=2, max_new_tokens=1), on_progress=count)
    for fetched, number in enumerate(seen):
        assert number <= fetched + 2 * AHEAD + 3


def test_rows_of_another_pair_are_refused(fake: FakeRay, tmp_path: Path, whole: Path) -> None:
    line = (whole / "conditions.jsonl").read_text()
    fingerprint = read_conditions(whole).popitem()[1]["model_fingerprint"]
    (tmp_path / "conditions.jsonl").write_text(line.replace(fingerprint, "0" * 12))
    with pytest.raises(DataError, match="rows of another pair"):
        run_on(fake, tmp_path)


def test_all_workers_have_the_same_models_and_version(
    fake: FakeRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prints = iter("abcdef")
    with monkeypatch.context() as patch:
        patch.setattr("mtad.bench.ray.worker.fingerprint", lambda pair: next(prints))
        with pytest.raises(DataError, match="another pair than the others"):
            run_on(fake, tmp_path)
    monkeypatch.setattr("mtad.bench.ray.pool.mtad.__version__", "9")
    worker = Worker(recipe(), 0, {})
    with pytest.raises(DataError, match=r"a worker has mtad 9, and 0\.1\.0 asked it"):
        worker.join("0.1.0", {})


def test_joules_of_a_shared_machine_are_not_counted(fake: FakeRay) -> None:
    worker = Worker(recipe(), 1, {"version": "0", "workers_on_machine": 2})
    worker.join("0.1.0", {"dev": {"spider": []}, "test": {"spider": []}})
    assert worker._runner is not None
    assert worker._runner.meter.reason == "other workers share the machine"
    assert worker._conditions["meter_remark"] == "other workers share the machine"
    assert worker._conditions["ray"] == {"version": "0", "workers_on_machine": 2}


def test_rounds_keep_the_order_and_every_job(whole: Path) -> None:
    made = recipe()
    from mtad.bench.checks import read_items
    from mtad.bench.jobs import jobs

    planned = list(jobs(made, "test", read_items(made)["test"], {}))
    assert [job for part in rounds(planned) for job in part] == planned


# --- placements and messages ----------------------------------------------------------------------


def _node(name: str, address: str, alive: bool = True, **resources: float) -> dict[str, Any]:
    return {
        "NodeID": name,
        "NodeManagerAddress": address,
        "Alive": alive,
        "Resources": resources,
    }


def _placements_of(nodes: list[dict[str, Any]], **pair: Any) -> list[tuple[str, int, int]]:
    wanted = parse({**TABLE, "pair": pair})
    found = placements(type("Ray", (), {"nodes": staticmethod(lambda: nodes)}), wanted)
    return [(place.node, place.num_gpus, place.num_neighbours) for place in found]


def test_a_worker_per_gpu_or_per_machine() -> None:
    nodes = [_node("a", "1", CPU=4.0), _node("b", "2", CPU=8.0, GPU=2.0)]
    nodes.append(_node("c", "3", alive=False, CPU=64.0))
    assert _placements_of(nodes) == [("a", 0, 0), ("b", 1, 1), ("b", 1, 1)]
    assert _placements_of(nodes, device="cuda") == [("b", 1, 1), ("b", 1, 1)]
    assert _placements_of(nodes, device="cpu") == [("a", 0, 0), ("b", 0, 0)]
    assert _placements_of(nodes, device_map="auto") == [("a", 0, 0), ("b", 2, 0)]


def test_workers_of_one_address_are_neighbours() -> None:
    assert _placements_of([_node("a", "1", CPU=1.0), _node("b", "1", CPU=1.0)]) == [
        ("a", 0, 1),
        ("b", 0, 1),
    ]


def test_a_cluster_without_room_is_refused() -> None:
    with pytest.raises(ClusterError, match="no machine of the Ray cluster has a GPU"):
        _placements_of([_node("a", "1", CPU=4.0)], device="cuda")
    with pytest.raises(ClusterError, match="has 1 CPUs or a GPU"):
        _placements_of([_node("a", "1", CPU=0.5)])


def test_device_numbers_are_refused() -> None:
    wanted = parse({**TABLE, "pair": {"target": "t", "device": "cuda:1"}})
    with pytest.raises(ValueError, match=r"pair\.device is 'cuda:1'; .* must be 'cuda' or 'auto'"):
        portable(wanted)


def test_folders_are_found_from_another_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "t").mkdir()
    monkeypatch.chdir(tmp_path)
    pair = portable(parse({**TABLE, "pair": {"target": "t", "draft": "owner/d"}})).pair
    assert (pair.target, pair.draft) == (str(tmp_path / "t"), "owner/d")
    assert portable(recipe()).pair == recipe().pair


RECIPE = """
[tasks.spider]
[[runs]]
method = "mtad"
"""


@pytest.mark.slow
def test_the_command_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r.toml"
    path.write_text(RECIPE)
    command = ["bench", "run", str(path), "-o", str(tmp_path / "o")]
    assert "--ray-address is 'x:1'; it needs --ray" in refused(*command, "--ray-address", "x:1")
    monkeypatch.setitem(sys.modules, "ray", None)
    message = refused(*command, "--ray", code=1)
    assert "--ray needs Ray" in message
    assert "pip install 'ray[serve]'" in message


# --- a cluster of two machines -------------------------------------------------------------------


def with_ray(test: Any) -> Any:
    """The test, with Ray itself, on two machines within this one."""
    return pytest.mark.slow(pytest.mark.filterwarnings(*clusters.RAY_WARNINGS)(test))


@with_ray
def test_two_machines_give_the_file_of_one(whole: Path, tmp_path: Path) -> None:
    with two_machines():
        run(recipe(), tmp_path, new_decoder=workers())
    assert decoded_rows(tmp_path) == decoded_rows(whole)
    [conditions] = read_conditions(tmp_path).values()
    assert conditions["ray"]["workers_on_machine"] == 2
    assert conditions["meter"] == "unavailable"


@with_ray
def test_ctrl_c_leaves_a_file_that_goes_on(whole: Path, tmp_path: Path) -> None:
    def stop(stage: str, label: str, done: int, total: int) -> None:
        if done >= 4:
            raise KeyboardInterrupt

    with two_machines():
        with pytest.raises(KeyboardInterrupt):
            run(recipe(), tmp_path, stop, new_decoder=workers())
        assert 4 <= len(read_samples(tmp_path)) < 15
        run(recipe(), tmp_path, new_decoder=workers())
    assert sorted(map(str, decoded_rows(tmp_path))) == sorted(map(str, decoded_rows(whole)))


@with_ray
def test_a_machine_dies_in_mid_run(whole: Path, tmp_path: Path) -> None:
    has_died = False

    def kill(stage: str, label: str, done: int, total: int) -> None:
        nonlocal has_died
        if done >= 3 and not has_died:
            has_died = True
            pull_the_plug(second)

    with two_machines() as (_, second):
        run(recipe(), tmp_path, kill, new_decoder=workers())
    assert has_died
    assert decoded_rows(tmp_path) == decoded_rows(whole)

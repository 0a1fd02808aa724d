"""A recipe: which pair answers which tasks by which methods, read from TOML and judged at once.

name = "example"
pair = "demo"                # or another name, or { target = "…", draft = "…", dtype = "bfloat16" }
data = "bundled"                     # or a folder with one folder per task

[sampling]                           # for every run
temperature = 1.0

[run]                                # fields of `Plan`
seeds = 3

[tasks.spider]                       # fields of `Spider`, and num_dev, num_test, max_new_tokens

[[runs]]
method = "mtad"
options = { beam_width = 4 }
grid = { accept_threshold = [0.1, 0.5, 0.9] }
"""

from __future__ import annotations

import dataclasses
import itertools
import tomllib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, cast

from mtad import tasks
from mtad.api.options import sampling_params
from mtad.bench.overlay import laid_over, merged, settings_table
from mtad.bench.plan import PairSpec, Plan, Point, Recipe, Run, TaskPlan, require
from mtad.core.names import did_you_mean, require_one_of
from mtad.core.options import typed
from mtad.core.schema import options_of
from mtad.methods import make
from mtad.pairs import PAIRS
from mtad.tasks import BUNDLED

BUNDLED_NAME = "bundled"
_PERMISSION: Final = "allow_"
_TOP = ("extends", "name", "pair", "data", "reference", "sampling", "run", "tasks", "runs")

T = TypeVar("T")


def read_recipe(
    path: Path, overrides: Mapping[str, Any] | None = None, settings: Iterable[str] = ()
) -> Recipe:
    """The recipe in a file.

    Args:
        path: a TOML file.
        overrides: tables to lay over it, key by key; None is skipped.
        settings: single values to lay over that, as `settings_table` takes them.

    Raises:
        ValueError: not TOML, an unknown key, a wrong type or an impossible value.
    """
    above = settings_table(settings)
    table = _read_table(path, ())
    try:
        return parse(merged(laid_over(table, overrides or {}), above))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _read_table(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """The table in a file, laid over the one that it extends."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not TOML: {error}") from error
    if found := _permissions(table):
        raise ValueError(
            f"{path}: a recipe cannot give itself the permission {found[0]}; give it on the "
            f"command line: --{found[0].replace('_', '-')}"
        )
    table.setdefault("name", path.stem)
    base = table.pop("extends", None)
    if base is None:
        return table
    below = path.parent / typed(base, str, f"{path}: extends")
    if below.resolve() in seen or not below.is_file():
        raise ValueError(f"{path}: extends is {base!r}; it must be another recipe beside it")
    return merged(_read_table(below, (*seen, path.resolve())), table)


def without_permissions(table: Mapping[str, Any]) -> dict[str, Any]:
    """The table as it may be kept: what was allowed once is not allowed for ever."""
    plain = {
        name: {key: value for key, value in options.items() if not key.startswith(_PERMISSION)}
        for name, options in table.get("tasks", {}).items()
    }
    return {**table, "tasks": plain}


def _permissions(table: Mapping[str, Any]) -> list[str]:
    tasks_of = table.get("tasks", {})
    options = [o for o in tasks_of.values() if isinstance(o, Mapping)] if tasks_of else []
    return [key for table in options for key in table if key.startswith(_PERMISSION)]


def parse(table: Mapping[str, Any]) -> Recipe:
    """The recipe that a table describes; errors as for `read_recipe`."""
    _require_known("the recipe", table, _TOP)
    plan = _filled(Plan, _table(table, "run"), "run")
    plans = {
        name: _task_plan(name, options, table, plan)
        for name, options in _table(table, "tasks").items()
    }
    if not plans:
        raise ValueError(f"no [tasks.…] table; known tasks: {', '.join(tasks.names())}")
    runs = tuple(run for row in _runs(table) for run in _runs_of(row, table, plans))
    names = [run.name for run in runs]
    if doubled := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"runs share the name {min(doubled)!r}; give each its own name")
    if not plan.timed_seeds and any(run.is_tuned and run.choose == "speed" for run in runs):
        raise ValueError("a run is chosen by speed; set timed_seeds to 1 or more")
    if any(run.is_tuned for run in runs) and not all(plan.num_dev for plan in plans.values()):
        raise ValueError(
            "a run has a grid to choose from; set num_dev, so that there are dev items"
        )
    reference = typed(table.get("reference", names[0]), str, "reference")
    if reference not in names:
        near, runs_ = did_you_mean(reference, names), ", ".join(names)
        raise ValueError(f"reference is {reference!r}{near}; it must be a run: {runs_}")
    name = typed(table.get("name", "bench"), str, "name")
    return Recipe(name, _pair(table.get("pair", "demo")), plan, plans, runs, reference, table)


def _pair(given: Any) -> PairSpec:
    if isinstance(given, str) and given in PAIRS:
        return PairSpec(given)
    if not isinstance(given, Mapping):
        raise ValueError(
            f"pair is {given!r}{did_you_mean(str(given), PAIRS)}; it must be "
            f"{' or '.join(map(repr, PAIRS))}, or a table with target and draft"
        )
    spec = _filled(PairSpec, given, "pair")
    if spec.target in PAIRS and spec.draft is not None:
        raise ValueError(f"the pair {spec.target!r} has a draft of its own; leave out pair.draft")
    return spec


def _task_plan(name: str, options: Any, table: Mapping[str, Any], plan: Plan) -> TaskPlan:
    cls, where = tasks.find(name), f"tasks.{name}"
    if not isinstance(options, Mapping):
        raise ValueError(f"{where} is {options!r}; it must be a table")
    counts = {
        key: typed(options.get(key, getattr(plan, key)), int, f"{where}.{key}")
        for key in ("num_dev", "num_test", "max_new_tokens")
    }
    own = {key: value for key, value in options.items() if key not in counts}
    own["data"] = _data(name, own.get("data"), table.get("data", BUNDLED_NAME))
    return TaskPlan(_filled(cls, own, where), **counts)


def _data(name: str, own: Any, common: Any) -> Path:
    """The task's folder: its own, or the one of its name in the common folder."""
    if own is not None:
        return Path(typed(own, str, f"tasks.{name}.data")).expanduser()
    folder = typed(common, str, "data")
    return (BUNDLED if folder == BUNDLED_NAME else Path(folder).expanduser()) / name


def _runs(table: Mapping[str, Any]) -> list[Any]:
    rows = table.get("runs", [])
    if not isinstance(rows, list) or not rows:
        raise ValueError("no [[runs]]; give at least one, with a method")
    return [each for row in rows for each in _at_temperatures(row)]


def _at_temperatures(row: Any) -> list[Any]:
    """The row, and one more for each of its `temperatures`, named by it."""
    if not isinstance(row, Mapping) or "temperatures" not in row:
        return [row]
    name = row.get("name", row.get("method"))
    given = typed(row["temperatures"], tuple[float, ...], f"run {name!r}: temperatures")
    plain = {key: value for key, value in row.items() if key != "temperatures"}
    others = [
        {
            **plain,
            "name": f"{name}, temperature {one:g}",
            "sampling": {**_table(row, "sampling"), "temperature": one},
        }
        for one in given
    ]
    return [plain, *others]


def _runs_of(row: Any, table: Mapping[str, Any], plans: Mapping[str, TaskPlan]) -> list[Run]:
    """The run of a row, or with `choose = "all"` a run for every combination of its grid."""
    run = _run(row, table, plans)
    if row.get("choose") != "all":
        return [run]
    return [dataclasses.replace(run, name=p.label, points=(p,)) for p in run.points]


def _run(row: Any, table: Mapping[str, Any], plans: Mapping[str, TaskPlan]) -> Run:
    if not isinstance(row, Mapping) or "method" not in row:
        raise ValueError(f"run {row!r} has no method")
    name = typed(row.get("name", row["method"]), str, "runs.name")
    where = f"run {name!r}"
    known = "name method options grid choose sampling temperatures models tasks".split()
    _require_known(where, row, known)
    points = _points(name, row)
    sampling = {**_table(table, "sampling"), **_table(row, "sampling")}
    require("max_new_tokens" not in sampling, "sampling.max_new_tokens", "", "in [run] instead")
    is_lossless = all(point.method.is_lossless for point in points)
    default: Literal["quality", "speed"] = "speed" if is_lossless else "quality"
    choose = _one_of(row, "choose", ("quality", "speed", "all"), default, where)
    chosen = typed(row.get("tasks", [*plans]), tuple[str, ...], f"{where}: tasks")
    require(bool(chosen), f"{where}: tasks", [*chosen], "at least one")
    for task in chosen:
        require_one_of(f"{where}: tasks", task, plans)
    for point in points:
        point.method.check(sampling_params(sampling))
    return Run(
        name,
        points,
        default if choose == "all" else choose,
        sampling,
        _one_of(row, "models", ("pair", "draft"), "pair", where),
        chosen,
    )


def _points(name: str, row: Mapping[str, Any]) -> tuple[Point, ...]:
    """The settings of a run: its options with every combination of its grid."""
    method, options = typed(row["method"], str, "runs.method"), _table(row, "options")
    grid = _table(row, "grid")
    for key, values in grid.items():
        if not isinstance(values, list) or not values:
            raise ValueError(f"run {name!r}: grid.{key} is {values!r}; it must be a list of values")
        require(key not in options, f"run {name!r}: {key}", "given twice", "in options or grid")
        if any(values.count(value) > 1 for value in values):
            raise ValueError(f"run {name!r}: grid.{key} is {values!r}; each value may stand once")
    combinations = [
        dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())
    ]
    is_named = len(combinations) > 1 or (bool(grid) and row.get("choose") == "all")
    return tuple(
        Point(
            label(name, chosen) if is_named else name,
            make(method, {**options, **chosen}),
        )
        for chosen in combinations
    )


def label(name: str, options: Mapping[str, Any]) -> str:
    """The name of a point of the grid."""
    return f"{name} [{', '.join(f'{key}={value}' for key, value in options.items())}]"


def _filled(cls: type[T], table: Mapping[str, Any], where: str) -> T:
    """The dataclass with the values of a table, checked by name and type."""
    known = options_of(cast(Any, cls))
    _require_known(where, table, known)
    return cls(**{key: known[key].typed(value, f"{where}.") for key, value in table.items()})


def _table(table: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = table.get(key, {})
    if not isinstance(value, Mapping):
        raise ValueError(f"{key} is {value!r}; it must be a table")
    return value


def _one_of(
    row: Mapping[str, Any], key: str, allowed: tuple[str, ...], default: str, where: str
) -> Any:
    value = row.get(key, default)
    require_one_of(f"{where}: {key}", value, allowed)
    return value


def _require_known(where: str, table: Iterable[str], known: Collection[str]) -> None:
    for key in table:
        if key not in known:
            near = did_you_mean(key, known)
            raise ValueError(
                f"{where} has an unknown key {key!r}{near}; known keys: {', '.join(known)}"
            )

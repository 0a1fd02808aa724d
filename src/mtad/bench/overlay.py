"""What is laid over a recipe's table: tables of flags, and single values by their path."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from typing import Any

from mtad.pairs import PAIRS


def laid_over(table: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe's table with the overrides; those for tasks that it does not have are dropped."""
    own = table.get("tasks", {})
    wanted = {name: v for name, v in overrides.get("tasks", {}).items() if name in own}
    given = {key for key, value in (overrides.get("pair") or {}).items() if value is not None}
    if given and isinstance(name := table.get("pair"), str):
        table = {**table, "pair": {"target": name}}
    if given and overrides["pair"].get("target") in PAIRS:  # whose draft is its own
        table = {**table, "pair": {k: v for k, v in table.get("pair", {}).items() if k != "draft"}}
    return merged(table, {**overrides, "tasks": wanted})


def merged(table: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """The table with the values of `above`, tables within tables too; None is skipped."""
    result = dict(table)
    for key, value in above.items():
        if isinstance(value, Mapping):
            below = result.get(key)
            if both := merged(below if isinstance(below, Mapping) else {}, value):
                result[key] = both
        elif value is not None:
            result[key] = value
    return result


def settings_table(settings: Iterable[str]) -> dict[str, Any]:
    """The table of settings such as `run.seeds=1` or `tasks.spec_bench.per_category=2`.

    Args:
        settings: the path of a key in the recipe and its value in TOML's form.

    Raises:
        ValueError: one has no "=", its value is no TOML, or a key is given twice.
    """
    table: dict[str, Any] = {}
    for setting in settings:
        path, equals, text = setting.partition("=")
        *outer, last = [name.strip() for name in path.split(".")]
        if not equals or not last:
            raise ValueError(f"--set {setting}: expected KEY=VALUE, such as --set run.seeds=1")
        place: Any = table
        for name in outer:
            place = place.setdefault(name, {}) if isinstance(place, dict) else place
        if not isinstance(place, dict) or last in place:
            raise ValueError(f"--set {setting}: {path.strip()} is given twice")
        place[last] = _value(setting, text)
    return table


def _value(setting: str, text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError as error:
        raise ValueError(
            f"--set {setting}: {text!r} is no value in TOML's form; texts stand in quotes, as in "
            "--set 'data=\"bundled\"'"
        ) from error

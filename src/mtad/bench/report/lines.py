"""Runs that differ only in one numeric option form a line of a plot."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from mtad.bench.report.results import Row
from mtad.bench.report.summary import Summary
from mtad.bench.sample import Sample


@dataclass(frozen=True)
class Line:
    """Some runs with the values of their option.

    Attributes:
        label: the method, and what distinguishes it from the method's other lines.
        places: the option's value by run, ascending.
    """

    label: str
    places: Mapping[str, float]


def lines_by(summary: Summary, option_of: Callable[[str], str | None]) -> list[Line]:
    """The lines of all runs that have the option.

    Runs whose option is not one number, because each task got its own, are left out.

    Args:
        summary: the runs.
        option_of: the option's name for a method's name, None if the method has none.
    """
    groups: dict[str, tuple[dict[str, Any], dict[str, float]]] = {}
    for run, rows in summary.results.by_run.items():
        sample = rows[0].sample
        option = option_of(str(sample.method["name"]))
        value = None if option is None else _value(rows, option)
        if option is not None and value is not None:
            rest = _rest(sample, option)
            key = json.dumps(rest, sort_keys=True)
            groups.setdefault(key, (rest, {}))[1][run] = value
    rests = [rest for rest, _ in groups.values()]
    return [
        Line(_label(rest, rests), dict(sorted(runs.items(), key=itemgetter(1))))
        for rest, runs in groups.values()
    ]


def varied_options(summary: Summary, at_least: int = 3) -> dict[str, list[Line]]:
    """The lines of every numeric option, if one of them has at least that many values."""
    names = {
        name
        for rows in summary.results.by_run.values()
        for name, value in rows[0].sample.method.get("options", {}).items()
        if _is_number(value)
    }
    lines = {name: lines_by(summary, _always(name)) for name in sorted(names)}
    return {
        name: found
        for name, found in lines.items()
        if any(len(set(line.places.values())) >= at_least for line in found)
    }


def _always(option: str) -> Callable[[str], str]:
    return lambda method: option


def _value(rows: list[Row], option: str) -> float | None:
    values = [row.sample.method.get("options", {}).get(option) for row in rows]
    if not _is_number(values[0]) or any(value != values[0] for value in values):
        return None
    return float(values[0])


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _rest(sample: Sample, option: str) -> dict[str, Any]:
    """Everything that makes the run but the option."""
    options = {k: v for k, v in sample.method.get("options", {}).items() if k != option}
    others = {"models": sample.models, **options, **sample.sampling}
    return {"method": str(sample.method["name"]), **others}


def _label(rest: Mapping[str, Any], all_rests: list[dict[str, Any]]) -> str:
    """The method and the settings in which its lines differ."""
    same_method = [other for other in all_rests if other["method"] == rest["method"]]
    differing = [k for k in rest if any(other.get(k) != rest[k] for other in same_method)]
    settings = [f"{key.replace('_', ' ')} {rest[key]}" for key in differing]
    return ", ".join([str(rest["method"]), *settings])

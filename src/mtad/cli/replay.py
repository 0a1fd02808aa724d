"""`mtad replay`: a trace judged again by other rules, as tables, JSON or a plot."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mtad import methods
from mtad.bench.report.canvas import grid_lines, new_figure, style
from mtad.cli.options import assignment, options_given
from mtad.cli.terminal import number
from mtad.core.options import jsonable
from mtad.engine.stats import Stats
from mtad.errors import DataError
from mtad.speculative.method import Method
from mtad.trace.format import read_lines
from mtad.trace.replay import Replay, RuleReplay, TextReplay, replay
from mtad.trace.rules import Rule


@dataclass(frozen=True)
class Question:
    """What the user asked of `mtad replay`.

    Attributes:
        trace: the file.
        method: to judge by; None for that of each text, or of the first where an option is given.
        options: `name=value` each.
        sweep: `name=value,value,…`.
        plot: where the picture of a sweep goes.
        as_json: whether to print JSON.
    """

    trace: Path
    method: str | None = None
    options: Sequence[str] = ()
    sweep: str | None = None
    plot: Path | None = None
    as_json: bool = False

    def __post_init__(self) -> None:
        """Refuse what does not go together."""
        if self.plot is not None and self.sweep is None:
            raise ValueError("--plot draws a sweep; give --sweep too")
        if self.plot is not None and self.plot.suffix not in (".png", ".svg", ".pdf"):
            raise ValueError(f"--plot is {self.plot}; its name must end in .png, .svg or .pdf")

    def rules(self) -> list[Rule]:
        """One rule, or one per value of the sweep.

        Raises:
            ValueError: an unknown name, a wrong type or an impossible value.
        """
        name = self.method
        if name is None and (self.options or self.sweep):
            name = first_method(self.trace)
        if name is None:
            return [Rule()]
        cls = methods.find(name)
        given = options_given(cls, (assignment("-o", text) for text in self.options))
        return [Rule(name, given | last) for last in self._swept(cls, given)]

    def _swept(self, cls: type[Method], given: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The value of the swept option, rule by rule."""
        if self.sweep is None:
            return [{}]
        flag, option, values = assignment("--sweep", self.sweep)
        if option in given:
            raise ValueError(f"{flag}: {option} is given with -o too")
        tried = ((flag, option, value.strip()) for value in values.split(","))
        return [options_given(cls, [one]) for one in tried]


def first_method(path: Path) -> str:
    """The name of the method of a trace's first text.

    Raises:
        DataError: it holds no text.
    """
    for line, place in read_lines(path):
        if line["type"] == "request":
            try:
                return str(line["method"]["name"])
            except (KeyError, TypeError) as error:
                raise DataError(f"{place} names no method; mend or delete the line") from error
    raise DataError(f"{path} holds no text yet")


def run(question: Question) -> None:
    """Judge the trace again and print what came of it."""
    rules = question.rules()
    if question.plot is not None:
        new_figure(1.0, 1.0)  # before the work: whether there is matplotlib
    done = replay(question.trace, rules)
    if question.plot is not None:
        _draw(done, question.plot)
    if question.as_json:
        record = {"trace": str(question.trace), "is_cut": done.is_cut} | done.header.as_dict()
        record["rules"] = [one.as_dict() for one in done.rules]
        print(json.dumps(jsonable(record), ensure_ascii=False, allow_nan=False))
        return
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    console.print(_summary(done))
    if len(done.rules) == 1:
        console.print(_texts(done.rules[0]), _accepted(done.rules[0]), sep="\n")
    for line in _remarks(done):
        console.print(Text(line), soft_wrap=True)


def _summary(done: Replay) -> Table:
    """One row per rule."""
    table = Table("rule", "texts", "that differ", "iterations", title_justify="left")
    for head in ("accepted", "tokens per iteration", "acceptance rate", "in the exact part"):
        table.add_column(head, justify="right")
    first = done.rules[0]
    table.add_row("recorded", *_counts(first, 0), *_rates(first.was), "")
    for one in done.rules:
        exact = number(one.exact.mean_acceptance_length, 3)
        exact = f"{exact} over {one.exact.num_spec_steps} iterations"
        counts = _counts(one, one.num_different)
        table.add_row(Text(one.rule.label), *counts, *_rates(one.now), exact)
    return table


def _counts(one: RuleReplay, num_different: int) -> list[str]:
    return [str(len(one.judged)), str(num_different), str(one.was.num_spec_steps)]


def _rates(stats: Stats) -> list[str]:
    rates = (stats.mean_acceptance_length, stats.draft_acceptance_rate)
    return [str(stats.num_accepted_draft_tokens), *(number(rate, 3) for rate in rates)]


def _texts(one: RuleReplay) -> Table:
    """One row per text, with its first decision that differs."""
    table = Table("text", "method", "iterations", "accepted", "replayed", "exact up to here")
    for text in one.texts:
        table.add_row(*map(Text, (text.id or text.key, text.method, *_outcome(text))))
    return table


def _outcome(text: TextReplay) -> list[str]:
    if text.left_out is not None:
        return ["–", "–", "–", f"left out: {text.left_out}"]
    counts = (
        text.was.num_spec_steps,
        text.was.num_accepted_draft_tokens,
        text.now.num_accepted_draft_tokens,
    )
    where, found = "all of it, the same decisions", text.difference
    if found is not None:
        where = f"iteration {found.iteration}, {found.num_exact_tokens} output tokens"
    return [*map(str, counts), where]


def _accepted(one: RuleReplay) -> Table:
    """By number of accepted draft tokens: how many iterations, and how many got that far."""
    table = Table("accepted draft tokens")
    for head in ("iterations recorded", "replayed", "share with at least that many", "replayed"):
        table.add_column(head, justify="right")
    parts = (one.was, one.now)
    deepest = max((count for stats in parts for count in stats.acceptance_histogram), default=0)
    for count in range(deepest + 1):
        iterations = [str(stats.acceptance_histogram[count]) for stats in parts]
        table.add_row(str(count), *iterations, *(_share(stats, count) for stats in parts))
    return table


def _share(stats: Stats, count: int) -> str:
    rates = [1.0, *stats.acceptance_rate_per_position]
    return number(rates[count] if count < len(rates) else 0.0, 3)


def _remarks(done: Replay) -> list[str]:
    """What must be known to read the numbers."""
    left = sum(text.left_out is not None for text in done.rules[0].texts)
    differs = any(one.num_different for one in done.rules)
    is_recorded = all(not one.rule.options and one.rule.name is None for one in done.rules)
    remarks = {
        "The last line of the trace was cut off; all before it is judged.": done.is_cut,
        f"{left} texts are left out, which the rule cannot judge.": left > 0,
        "Beyond the first decision that differs the text is no longer what the rule would have "
        "written: counts over all iterations judge each one on the recorded text.": differs,
        "The recorded rule itself decides otherwise here: the trace comes from another device "
        "or version, and the decision lay within rounding.": differs and is_recorded,
    }
    return [text for text, holds in remarks.items() if holds]


def _draw(done: Replay, path: Path) -> None:
    """The sweep as a picture: tokens per iteration by the value of the option."""
    labels = [str([*one.rule.options.values()][-1]) for one in done.rules]
    figure = new_figure(6.0, 4.0)
    axes = figure.add_subplot()
    places = range(len(labels))
    lines = {
        "each iteration on the recorded text": [one.now for one in done.rules],
        "up to the first decision that differs": [one.exact for one in done.rules],
        "recorded": [one.was for one in done.rules],
    }
    for index, (label, stats) in enumerate(lines.items()):
        values = [s.mean_acceptance_length or 0.0 for s in stats]
        axes.plot(places, values, label=label, **style(index))
    axes.set_xticks(places, labels)
    axes.set_xlabel([*done.rules[0].rule.options][-1])
    axes.set_ylabel("tokens per iteration")
    grid_lines(axes)
    axes.legend()
    figure.savefig(path, dpi=150)

"""`mtad replay`: a trace judged again by other rules, as tables, JSON or a plot."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mtad import methods
from mtad.bench.report.canvas import grid_lines, new_figure, style
from mtad.cli.options import assignment, options_given
from mtad.cli.printing import print_json
from mtad.cli.terminal import number
from mtad.engine.stats import Stats
from mtad.errors import DataError
from mtad.trace.format import named_if_damaged, read_lines
from mtad.trace.replay import Replay, RuleReplay, TextReplay, replay
from mtad.trace.rules import Rule


def run(
    trace: Path,
    method: str | None,
    options: Sequence[str],
    sweep: str | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Judge the trace again and print what came of it; the arguments are those of the command.

    Raises:
        ValueError: arguments that do not go together, or an option that the rule does not have.
    """
    if plot is not None:
        _check_plot(plot, sweep)
    rules = _rules(trace, method, options, sweep)
    if plot is not None:
        new_figure(1.0, 1.0)  # before the work: whether there is matplotlib
    done = replay(trace, rules)
    if plot is not None:
        _draw(done, plot)
    if as_json:
        record = {"trace": str(trace), "is_cut": done.is_cut} | done.header.as_dict()
        record["rules"] = [one.as_dict() for one in done.rules]
        print_json(record)
        return
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    console.print(_summary(done))
    if len(done.rules) == 1:
        console.print(_texts(done.rules[0]), _accepted(done.rules[0]), sep="\n")
    for line in _remarks(done):
        console.print(Text(line), soft_wrap=True)


def _check_plot(plot: Path, sweep: str | None) -> None:
    """Refuse a picture of nothing, or of an unknown format."""
    if sweep is None:
        raise ValueError("--plot draws a sweep; give --sweep too")
    if plot.suffix not in (".png", ".svg", ".pdf"):
        raise ValueError(f"--plot is {plot}; its name must end in .png, .svg or .pdf")


def _rules(
    trace: Path, method: str | None, options: Sequence[str], sweep: str | None
) -> list[Rule]:
    """One rule, or one per value of the sweep; options alone are of the first text's method."""
    name = first_method(trace) if method is None and (options or sweep) else method
    if name is None:
        return [Rule()]
    cls = methods.find(name)
    given = options_given(cls, (assignment("-o", text) for text in options))
    if sweep is None:
        return [Rule(name, given)]
    flag, option, values = assignment("--sweep", sweep)
    if option in given:
        raise ValueError(f"{flag}: {option} is given with -o too")
    tried = [options_given(cls, [(flag, option, text.strip())]) for text in values.split(",")]
    return [Rule(name, given | last) for last in tried]


def first_method(path: Path) -> str:
    """The name of the method of a trace's first text.

    Raises:
        DataError: it holds no text.
    """
    for line, place in read_lines(path):
        if line["type"] == "request":
            with named_if_damaged(place):
                return str(line["method"]["name"])
    raise DataError(f"{path} holds no text yet")


def _summary(done: Replay) -> Table:
    """One row per rule."""
    first, table = done.rules[0], Table("rule", "texts", "that differ", "iterations")
    for head in ("accepted", "tokens per iteration", "acceptance rate", "in the exact part"):
        table.add_column(head, justify="right")
    table.add_row("recorded", *_counts(first, 0, first.was), "")
    for one in done.rules:
        exact = number(one.exact.mean_acceptance_length, 3)
        exact = f"{exact} over {one.exact.num_spec_steps} iterations"
        table.add_row(Text(one.rule.label), *_counts(one, one.num_different, one.now), exact)
    return table


def _counts(one: RuleReplay, num_different: int, stats: Stats) -> list[str]:
    counts = len(one.judged), num_different, stats.num_spec_steps, stats.num_accepted_draft_tokens
    rates = stats.mean_acceptance_length, stats.draft_acceptance_rate
    return [*map(str, counts), *(number(rate, 3) for rate in rates)]


def _texts(one: RuleReplay) -> Table:
    """One row per text, with its first decision that differs."""
    table = Table("text", "method", "iterations", "accepted", "replayed", "exact up to here")
    for text in one.texts:
        table.add_row(*map(Text, (text.id or text.key, text.method, *_outcome(text))))
    return table


def _outcome(text: TextReplay) -> list[str]:
    if text.left_out is not None:
        return ["–", "–", "–", f"left out: {text.left_out}"]
    was, now, where, found = text.was, text.now, "all of it, the same decisions", text.difference
    if found is not None:
        where = f"iteration {found.iteration}, {found.num_exact_tokens} output tokens"
    counts = was.num_spec_steps, was.num_accepted_draft_tokens, now.num_accepted_draft_tokens
    return [*map(str, counts), where]


def _accepted(one: RuleReplay) -> Table:
    """By number of accepted draft tokens: how many iterations, and how many got that far."""
    table, parts = Table("accepted draft tokens"), (one.was, one.now)
    for head in ("iterations recorded", "replayed", "share with at least that many", "replayed"):
        table.add_column(head, justify="right")
    shares = [[1.0, *stats.acceptance_rate_per_position] for stats in parts]
    for count in range(max(map(len, shares))):
        iterations = [str(stats.acceptance_histogram[count]) for stats in parts]
        reached = [number(share[count] if count < len(share) else 0.0, 3) for share in shares]
        table.add_row(str(count), *iterations, *reached)
    return table


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
    figure = new_figure(6.0, 4.0)
    axes = figure.add_subplot()
    lines = {
        "each iteration on the recorded text": [one.now for one in done.rules],
        "up to the first decision that differs": [one.exact for one in done.rules],
        "recorded": [one.was for one in done.rules],
    }
    places = range(len(done.rules))
    for index, (label, parts) in enumerate(lines.items()):
        values = [stats.mean_acceptance_length or 0.0 for stats in parts]
        axes.plot(places, values, label=label, **style(index))
    swept = [[*one.rule.options.items()][-1] for one in done.rules]
    axes.set_xticks(places, [str(value) for _, value in swept])
    axes.set_xlabel(swept[0][0])
    axes.set_ylabel("tokens per iteration")
    grid_lines(axes)
    axes.legend()
    figure.savefig(path, dpi=150)

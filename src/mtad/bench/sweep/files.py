"""What a sweep leaves behind: the table, the plot, the report and two method configurations."""

from __future__ import annotations

import dataclasses
import textwrap
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from mtad.api.options import MethodConfig
from mtad.bench.plan import Recipe
from mtad.bench.report import Results, Summary, write_report
from mtad.bench.report.markdown import grid
from mtad.bench.report.metrics import SPEED
from mtad.bench.report.table import Table, formatted
from mtad.bench.report.tables import main_table
from mtad.bench.report.write import write_files
from mtad.bench.statistics import Estimate
from mtad.bench.sweep.choice import (
    Setting,
    allowed,
    better_greedy,
    can_lose,
    fastest,
    gain,
    is_measured_within,
    is_shown_below,
    settings_of,
)
from mtad.bench.sweep.plot import frontier_plot

NO_LOSS_FILE: Final = "fastest-no-measurable-loss.toml"
REPETITION_WARNING: Final = (
    "There are no right answers here: quality is the perplexity of the output under the target. A "
    "low perplexity can be mere repetition; compare the repetition rates and read some answers."
)
_CHANCE: Final = "It samples from the law of plain sampling; a measured difference is chance."


_RULES: Final = (
    (
        NO_LOSS_FILE,
        "fastest whose loss of quality against {plain} is shown to be below {margin}: the lower "
        "end of the paired 95 % interval of the difference is above −{margin}",
        is_shown_below,
    ),
    (
        "at-most-{max_loss}-percent-loss.toml",
        "fastest whose measured mean loss of quality against {plain} is at most {margin}; the loss "
        "itself may be anywhere in the interval of the difference",
        is_measured_within,
    ),
)


@dataclass(frozen=True)
class Choice:
    """A configuration's file, the rule in words, and the fastest setting that it allows."""

    file: str
    rule: str
    setting: Setting


class Frontier:
    """A swept, scored folder as settings, choices and files.

    Args:
        recipe: the sweep's; rows of other runs, of an earlier sweep, are left out.
        results: what it gave.
        max_loss: the loss that is allowed, in points of 100, or per cent of perplexity.
        command: what it was made with, for the configurations.
    """

    def __init__(self, recipe: Recipe, results: Results, max_loss: float, command: str) -> None:
        self.recipe, self.results = recipe, results
        self.max_loss, self.command = max_loss, command
        names = {run.name for run in recipe.runs}
        self.summary = Summary(
            dataclasses.replace(results, samples=[s for s in results.samples if s.run in names])
        )
        self.settings = settings_of(self.summary, recipe)
        self.is_scored = bool(results.scored_tasks)
        self.unit = "points of 100" if self.is_scored else "% of perplexity"
        self.can_lose = can_lose(self.summary, max_loss)
        self.fastest_lossless = fastest(s for s in self.settings if s.kind == "lossless")

    def choices(self) -> list[Choice]:
        """The fastest setting of either rule; none where no speed is known."""
        words = {
            "max_loss": f"{self.max_loss:g}",
            "margin": f"{self.max_loss:g} {self.unit}",
            "plain": f"{self.recipe.reference} at the same sampling settings",
        }
        found = []
        for file, rule, is_small in _RULES:
            fitting = allowed(self.settings, partial(is_small, self.max_loss))
            taken = fastest(s for s in fitting if self.can_lose or s.kind == "lossless")
            if taken is not None:
                found.append(Choice(file.format(**words), rule.format(**words), taken))
        return found

    def table(self) -> Table:
        """The report's overview, with the columns that only a sweep has."""
        overview = main_table(self.summary)
        headers = [*overview.headers, f"gain, {self.unit}", "Pareto set"]
        rows = [
            [*row, *self._further(setting)]
            for row, setting in zip(overview.rows, self.settings, strict=True)
        ]
        return dataclasses.replace(overview, headers=headers, rows=rows)

    def _further(self, setting: Setting) -> list[str]:
        is_reference = setting.run == self.recipe.reference
        return [
            "reference" if is_reference else _signed(setting.gain),
            "yes" if setting.is_pareto else "",
        ]

    def text(self) -> str:
        """What the command prints: the table, warnings, and what was chosen."""
        parts = [grid(self.table()), *self._warnings]
        choices = self.choices()
        for choice in choices:
            lines = [f"{choice.file}: {choice.setting.run}.", *self._remarks(choice.setting)]
            parts.append(" ".join(lines))
        for setting in {choice.setting.run: choice.setting for choice in choices}.values():
            parts += self._greedy_remark(setting)
        return "\n".join(parts)

    @property
    def _warnings(self) -> list[str]:
        return [] if self.is_scored else [REPETITION_WARNING]

    def _remarks(self, taken: Setting) -> list[str]:
        """What the reader has to know beyond the rule."""
        lossless = self.fastest_lossless
        if taken.kind == "lossy":
            if lossless is None or (self._speed(taken, lossless).low or 0.0) > 1:
                return []
            return [f"It is not shown to be faster than {lossless.run}, which loses nothing."]
        if self.can_lose:
            return ["No lossy setting that the rule allows was faster.", _CHANCE]
        return [
            "The quality of plain sampling is no higher than the loss that is allowed, so a loss "
            "could not be seen. Lossy settings were left out.",
            _CHANCE,
        ]

    def _greedy_remark(self, taken: Setting) -> list[str]:
        better = better_greedy(self.summary, self.settings, taken)
        if better is None:
            return []
        more = _signed(gain(self.summary, better.run, taken.run))
        speed = formatted(self._speed(better, taken), 2)
        return [
            f"{better.run} was both better ({more} {self.unit}) and faster ({speed} ×) than "
            f"{taken.run}. Take it where answers need not vary."
        ]

    def _speed(self, one: Setting, other: Setting) -> Estimate:
        return self.summary.compare(one.run, other.run, SPEED).estimate

    def config(self, choice: Choice) -> str:
        """The configuration with its evidence, as `mtad generate --config` takes it."""
        [task] = self.recipe.tasks.values()
        sampling = dict(self.recipe.table["sampling"]) | {"max_new_tokens": task.max_new_tokens}
        toml = MethodConfig(choice.setting.method, sampling).as_toml()
        lines = [
            line
            for text in map(_printable, self._evidence(choice))
            for line in textwrap.wrap(text, 96, subsequent_indent="  ", break_on_hyphens=False)
        ]
        lines.append(f"Command: {_printable(self.command)}")
        return "".join(f"# {line}\n" for line in lines) + "\n" + toml

    def _evidence(self, choice: Choice) -> list[str]:
        setting = choice.setting
        [items] = self.summary.results.items.values()
        return [
            f"{setting.run}: chosen from {len(self.settings)} settings.",
            f"Rule: {choice.rule}. Settings without loss by construction always qualify.",
            *self._remarks(setting),
            *self._conditions(),
            f"Data: {len(items)} items with up to {self.recipe.plan.seeds} samples each, "
            f"{setting.gain.num_items} items compared. Brackets are 95 % intervals over items; "
            "tokens/s are of decoding only, J/token is gross.",
            *self._values(setting),
            *self._warnings,
            *self._greedy_remark(setting),
            "The choice was made on the items that it is measured on, and the intervals do not "
            "make up for the number of settings that were tried: check it on other prompts.",
        ]

    def _conditions(self) -> list[str]:
        """Pair, device and date of each of the conditions that rows were made under."""
        return [
            f"Pair: {' and '.join(dict.fromkeys((c['target']['name'], c['draft']['name'])))} "
            f"({c['target']['dtype']}), on {c['device']}, batch size "
            f"{self.recipe.plan.batch_size}, from {c['first_used']} on."
            for c in self.results.conditions.values()
        ]

    def _values(self, setting: Setting) -> list[str]:
        """The setting's row of the table beside that of plain sampling, and its speed-up."""
        table = self.table()
        rows = {run: row for run, *row in table.rows}
        own, plain = rows[setting.run], rows[self.recipe.reference]
        values = [
            f"{header}: {value}; plain sampling: {other}."
            for header, value, other in zip(table.headers[1:-1], own, plain, strict=False)
        ]
        lossless = self.fastest_lossless
        if lossless is not None and lossless.run != setting.run:
            ratio = formatted(self._speed(setting, lossless), 2)
            values.append(f"tokens/s: {ratio} × {lossless.run}, the fastest without loss.")
        return values

    def write(self, folder: Path) -> list[Path]:
        """Write plot, configurations and report; their paths.

        Raises:
            MtadError: matplotlib is not installed.
        """
        methods = (setting.method for setting in self.settings)
        plot = frontier_plot(self.summary, {m.name: m.dial.option for m in methods if m.dial})
        texts = {"frontier.md": self.text() + "\n"}
        texts |= {choice.file: self.config(choice) for choice in self.choices()}
        files = write_files(folder, texts, [plot])
        return [*files, *write_report(self.results, folder / "report", title=self.recipe.name)]


def _signed(difference: Estimate) -> str:
    """A difference with its sign and interval."""
    return formatted(difference, 1, sign="+")


def _printable(text: str) -> str:
    """The text on one line, without what a comment must not hold."""
    return "".join(c if c.isprintable() else " " for c in text)

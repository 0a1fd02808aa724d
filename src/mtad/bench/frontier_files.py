"""What a sweep leaves behind: the table, the plot, the report and two method configurations."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mtad.api.options import MethodConfig
from mtad.bench.files import write_text
from mtad.bench.frontier_choice import (
    Setting,
    better_greedy,
    can_lose,
    fastest,
    gain,
    settings_of,
    within_mean_loss,
    without_shown_loss,
)
from mtad.bench.plan import Recipe
from mtad.bench.report import Results, Summary, frontier_plot, write_report
from mtad.bench.report.markdown import grid
from mtad.bench.report.metrics import SPEED
from mtad.bench.report.table import UNAVAILABLE, Table, formatted, number
from mtad.bench.statistics import Estimate

NO_LOSS_FILE: Final = "fastest-no-measurable-loss.toml"
REPETITION_WARNING: Final = (
    "There are no right answers here: quality is the perplexity of the output under the target. A "
    "low perplexity can be mere repetition; compare the repetition rates and read some answers."
)


@dataclass(frozen=True)
class Choice:
    """One rule and what it takes.

    Attributes:
        file: the name of its configuration.
        rule: the rule in words.
        setting: the fastest setting that it allows.
        remark: what the reader has to know beyond the rule, or "".
    """

    file: str
    rule: str
    setting: Setting
    remark: str = ""


class Frontier:
    """A swept, scored folder as settings, choices and files.

    Args:
        recipe: the sweep's.
        results: what it gave.
        max_loss: the loss that is allowed, in points of 100, or per cent of perplexity.
        command: what it was made with, for the receipts.
    """

    def __init__(self, recipe: Recipe, results: Results, max_loss: float, command: str) -> None:
        self.recipe, self.results = recipe, results
        self.max_loss, self.command = max_loss, command
        self.summary = Summary(results)
        self.settings = settings_of(self.summary, recipe)
        self.is_scored = bool(results.scored_tasks)

    @property
    def unit(self) -> str:
        """What gains and losses are counted in."""
        return "points of 100" if self.is_scored else "% of perplexity"

    @property
    def measure(self) -> str:
        """What quality is."""
        [task] = self.recipe.tasks
        return f"{task} {self.results.tasks[task].metric}" if self.is_scored else "perplexity"

    def choices(self) -> list[Choice]:
        """The fastest setting of either rule; none where no speed is known."""
        margin = f"{self.max_loss:g} {self.unit}"
        plain = f"{self.recipe.reference} at the same sampling settings"
        rules = [
            (
                NO_LOSS_FILE,
                f"fastest whose loss of quality against {plain} is shown to be below {margin}: the "
                f"lower end of the paired 95 % interval of the difference is above −{margin}",
                without_shown_loss,
            ),
            (
                f"at-most-{self.max_loss:g}-percent-loss.toml",
                f"fastest whose measured mean loss of quality against {plain} is at most {margin}; "
                "the loss itself may be anywhere in the interval of the difference",
                within_mean_loss,
            ),
        ]
        found = []
        for file, rule, allowed in rules:
            taken = fastest(self._allowed(allowed(self.settings, self.max_loss)))
            if taken is not None:
                rule += ". Settings without loss by construction always qualify"
                found.append(Choice(file, rule, taken, self._remark(taken)))
        return found

    def _allowed(self, settings: Iterable[Setting]) -> list[Setting]:
        can = can_lose(self.summary, self.max_loss)
        return [s for s in settings if can or s.kind == "lossless"]

    def _remark(self, taken: Setting) -> str:
        if taken.kind == "lossy":
            return self._speed_remark(taken)
        chance = "It samples from the law of plain sampling; a measured difference is chance."
        if not can_lose(self.summary, self.max_loss):
            return (
                "The quality of plain sampling is no higher than the loss that is allowed, so a "
                f"loss could not be seen. Lossy settings were left out. {chance}"
            )
        return f"No lossy setting that the rule allows was faster. {chance}"

    def _speed_remark(self, taken: Setting) -> str:
        """A word of warning if nothing shows that the loss is paid back in speed."""
        lossless = self._fastest_lossless
        if lossless is None or (self._speed(taken, lossless).low or 0.0) > 1:
            return ""
        return f"It is not shown to be faster than {lossless.run}, which loses nothing."

    @property
    def _fastest_lossless(self) -> Setting | None:
        return fastest(s for s in self.settings if s.kind == "lossless")

    def table(self) -> Table:
        """One row per setting."""
        headers = [
            "setting",
            *([f"{self.measure}, 0 to 100"] if self.is_scored else []),
            f"gain, {self.unit}",
            "perplexity",
            "repetition rate",
            "tokens/s, relative",
            "J/token",
            "mean acceptance length",
            "Pareto set",
        ]
        return Table("Frontier", headers, [self._row(s) for s in self.settings])

    def _row(self, setting: Setting) -> list[str]:
        is_reference = setting.run == self.recipe.reference
        return [
            setting.run,
            *([formatted(setting.quality, 1)] if self.is_scored else []),
            "reference" if is_reference else signed(setting.gain),
            formatted(setting.perplexity, 3),
            formatted(setting.repetition, 3),
            "1" if is_reference else formatted(setting.speed, 2),
            formatted(setting.energy, 3) if setting.energy.value is not None else UNAVAILABLE,
            formatted(setting.acceptance_length, 2),
            "yes" if setting.is_pareto else "",
        ]

    def text(self) -> str:
        """What the command prints: the table, warnings, and what was chosen."""
        parts = [grid(self.table())]
        parts += [] if self.is_scored else [REPETITION_WARNING]
        choices = self.choices()
        for choice in choices:
            parts.append(f"{choice.file}: {choice.setting.run}. {choice.remark}".rstrip())
        for run in dict.fromkeys(choice.setting.run for choice in choices):
            parts += self._greedy_remark(next(s for s in self.settings if s.run == run))
        return "\n".join(parts)

    def _greedy_remark(self, taken: Setting) -> list[str]:
        better = better_greedy(self.summary, self.settings, taken)
        if better is None:
            return []
        more = signed(gain(self.summary, better.run, taken.run))
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
        toml = MethodConfig(choice.setting.point.method, sampling).as_toml()
        lines = [part for text in self._evidence(choice) for part in wrapped(printable(text))]
        lines.append(f"Command: {printable(self.command)}")
        return "".join(f"# {line}\n" for line in lines) + "\n" + toml

    def _evidence(self, choice: Choice) -> list[str]:
        setting = choice.setting
        reference = next(s for s in self.settings if s.run == self.recipe.reference)
        num_items = len(self.results.items[next(iter(self.recipe.tasks))])
        return [
            f"{setting.run}: chosen from {len(self.settings)} settings.",
            f"Rule: {choice.rule}.",
            *([choice.remark] if choice.remark else []),
            *self._receipts(),
            f"Data: {num_items} items with up to {self.recipe.plan.seeds} samples each, "
            f"{setting.gain.num_items} items compared. Brackets are 95 % intervals over items.",
            *self._values(setting, reference),
            *self._greedy_remark(setting),
            "The choice was made on the items that it is measured on, and the intervals do not "
            "make up for the number of settings that were tried: check it on other prompts.",
        ]

    def _receipts(self) -> list[str]:
        """Pair, device and date of each of the conditions that rows were made under."""
        return [
            f"Pair: {' and '.join(dict.fromkeys((c['target']['name'], c['draft']['name'])))} "
            f"({c['target']['dtype']}), on {c['device']}, batch size "
            f"{self.recipe.plan.batch_size}, from {c['first_used']} on."
            for c in self.results.conditions.values()
        ]

    def _values(self, setting: Setting, reference: Setting) -> list[str]:
        quality, plain = (
            formatted(s.quality, 1) if self.is_scored else formatted(s.perplexity, 3)
            for s in (setting, reference)
        )
        energy = setting.energy
        known = f"{formatted(energy, 3)} (gross)" if energy.value is not None else UNAVAILABLE
        return [
            f"Quality ({self.measure}): {quality}; plain sampling: {plain}.",
            *self._against(setting, reference),
            f"Perplexity: {formatted(setting.perplexity, 3)}; repetition rate: "
            f"{formatted(setting.repetition, 3)}, plain sampling: "
            f"{formatted(reference.repetition, 3)}.",
            f"J/token: {known}.",
            *([] if self.is_scored else [REPETITION_WARNING]),
        ]

    def _against(self, setting: Setting, reference: Setting) -> list[str]:
        """What sets it apart from plain sampling, and its speed from the fastest without loss."""
        if setting.run == reference.run:
            return ["This is plain sampling itself, which the others are compared with."]
        lines = [
            f"Difference of quality from plain sampling: {signed(setting.gain)} {self.unit}.",
            f"Tokens/s, decode only: {formatted(setting.speed, 2)} × plain sampling.",
        ]
        lossless = self._fastest_lossless
        if lossless is not None and lossless.run != setting.run:
            ratio = formatted(self._speed(setting, lossless), 2)
            lines.append(f"Tokens/s: {ratio} × {lossless.run}, the fastest without loss.")
        return lines

    def write(self, folder: Path) -> list[Path]:
        """Write plot, configurations and report; their paths.

        Raises:
            MtadError: matplotlib is not installed.
        """
        plot = frontier_plot(self.settings)
        files: dict[str, bytes] = {"frontier.svg": plot.svg, "frontier.png": plot.png}
        files["frontier.md"] = (self.text() + "\n").encode()
        for name, content in files.items():
            (folder / name).write_bytes(content)
        configs = self._write_configs(folder)
        report = write_report(self.results, folder / "report", title=self.recipe.name)
        return [*(folder / name for name in files), *configs, *report]

    def _write_configs(self, folder: Path) -> list[Path]:
        paths = []
        for choice in self.choices():
            paths.append(folder / choice.file)
            write_text(paths[-1], self.config(choice))
        return paths


def signed(estimate: Estimate) -> str:
    """A difference with its sign and interval."""
    if estimate.value is None:
        return "–"
    ends = [e for e in (estimate.low, estimate.high) if e is not None]
    interval = f" [{', '.join(number(e, 1, '+') for e in ends)}]" if ends else ""
    return number(estimate.value, 1, "+") + interval


def wrapped(text: str) -> list[str]:
    """The text as lines for a comment; those after the first are set in."""
    return textwrap.wrap(text, 96, subsequent_indent="  ", break_on_hyphens=False)


def printable(text: str) -> str:
    """The text on one line, without what a comment must not hold."""
    return "".join(c if c.isprintable() else " " for c in text)

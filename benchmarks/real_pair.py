"""What README.md and docs/results.md say of the pair smollm2, from its figures and rows.

Both say nothing until benchmarks/headline.json has figures of the pair.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final

from categories import by_category
from claims import claims
from headline import RELATIVE, ROOT, Entries, Entry, metric_of
from headline_tables import results_table
from study import PICTURE, SPEED_ROWS, study

from mtad.bench.files import read_conditions
from mtad.bench.report import Summary, main_table
from mtad.bench.report.markdown import grid
from mtad.bench.report.table import table_of
from mtad.bench.results import read_recipe_of, read_results

PAIR: Final = "smollm2"
TITLE: Final = "Results on SmolLM2-135M"
SPEED, QUALITY = RELATIVE, "mean_quality"
_PICTURE: Final = (
    "![Mean quality against decode speed over greedy speculative decoding's: only searches are "
    "above it](docs/images/study.svg)\n\nOnly searches write better answers than greedy "
    "speculative decoding, and with a draft they cost a quarter to a third of the time that they "
    "take without. [The study](docs/choose-a-method.md#the-study) has the numbers."
)
_CLAIMS: Final = "| the paper | here |\n|---|---|"
SHOWN: Final = ("acceptance_length", SPEED, "json_extraction", "closed_book", "table_sql")
"""The columns of README's table."""


def of_pair(figures: Entries) -> Entries:
    """The figures of the pair."""
    return {name: one for name, one in figures.items() if name.startswith(f"{PAIR}.")}


def readme_section(figures: Entries) -> str:
    """README's section; "" without figures."""
    own = of_pair(figures)
    if not own:
        return ""
    shown = results_table(own, PAIR, SHOWN)
    parts = [
        f"## {TITLE}",
        f"{_measured(own)} Sampling at temperature 1, top-k 10, top-p 0.9 unless the row says "
        "otherwise. Brackets are 95 % intervals over questions. [All tables, and what they say of "
        "the paper's claims](docs/results.md#results-on-smollm2-135m).",
        grid(table_of("", shown)),
        *([_PICTURE] if PICTURE.exists() else []),
    ]
    return "\n\n".join(parts)


def _measured(own: Entries) -> str:
    """What the columns of README's table were measured on."""
    sentences = []
    if speed := _of_metric(own, SPEED):
        sentences.append(
            f"Speed (decode only, relative to plain sampling in the same run) and acceptance: "
            f"{_largest(speed)} questions of Spec-Bench, one at a time."
        )
    tasks = [name for name in SHOWN if name not in ("acceptance_length", SPEED)]
    if quality := [one for name in tasks for one in _of_metric(own, name)]:
        sentences.append(
            f"Quality: up to {_largest(quality)} questions of each task, options of lossy methods "
            "chosen on others."
        )
    return " ".join(sentences)


def _of_metric(own: Entries, metric: str) -> list[Entry]:
    return [one for name, one in own.items() if metric_of(name) == metric]


def _largest(entries: list[Entry]) -> int:
    """The number of items that most of the figures rest on."""
    return max(int(one["num"]) for one in entries)


def results_sections(figures: Entries) -> list[str]:
    """The sections of docs/results.md; none without figures."""
    own = of_pair(figures)
    if not own:
        return []
    folders = {one["rows"].rpartition("/")[0]: one["command"] for one in own.values()}
    quality, speed = (_folder_of(own, metric) for metric in (QUALITY, SPEED))
    answers = claims(*(_summary(folder) if folder else None for folder in (quality, speed)))
    rows = [f"| {claim} | {found} |" for claim, found in answers]
    return [
        f"# {TITLE}",
        *(part for folder, command in folders.items() for part in _section(folder, command)),
        *(_study(quality) if quality else []),
        *(["## The paper's claims on SmolLM2-135M", "\n".join([_CLAIMS, *rows])] if rows else []),
    ]


def _study(folder: str) -> list[str]:
    """Every run against greedy speculative decoding, and against sampling that is as likely."""
    speed = _summary(SPEED_ROWS) if (ROOT / SPEED_ROWS).is_dir() else None
    return [
        "## Against greedy speculative decoding",
        "The same questions as under quality, paired. The temperature is that at which plain "
        "sampling has the run's perplexity, interpolated; a dash where the text is likelier than "
        f"greedy's or less likely than that of temperature 1. Speeds: {_timed(speed)}.",
        grid(study(_summary(folder), speed)),
    ]


def _timed(speed: Summary | None) -> str:
    if speed is None:
        return "not measured"
    count = sum(map(len, speed.results.items.values()))
    return f"{count} of them, one at a time, decode only ([rows](../{SPEED_ROWS}))"


def _folder_of(own: Entries, metric: str) -> str | None:
    """The folder that a metric's figures are from."""
    rows = (one["rows"] for one in _of_metric(own, metric))
    return next((path.rpartition("/")[0] for path in rows), None)


def _section(folder: str, command: str) -> list[str]:
    """A folder of results: what it is, on what it ran, and its table."""
    return [
        f"## {Path(folder).name}",
        f"{_sentence(command)} `{command}`: {_size(folder)}. {_machine(folder)} "
        f"[Rows and conditions](../{folder}).",
        main_table(_summary(folder).results),
        *(
            part
            for table in by_category(_summary(folder).results)
            for part in (f"{table.title}:", grid(table))
        ),
    ]


def _sentence(command: str) -> str:
    """The first line of the command's recipe, and what it goes on with."""
    recipe = next(ROOT / word for word in command.split() if word.endswith(".toml"))
    lines = recipe.read_text(encoding="utf-8").split("\n#\n")[0].splitlines()
    return " ".join(line.removeprefix("#").strip() for line in lines)


def _size(folder: str) -> str:
    """How many questions there were of each task, and how many answers were drawn to each."""
    items = _summary(folder).results.items
    questions = ", ".join(f"{len(found)} questions of {task}" for task, found in items.items())
    seeds = read_recipe_of(ROOT / folder).plan.seeds
    return f"{questions}; {seeds} seed{'s' if seeds > 1 else ''}"


def _machine(folder: str) -> str:
    here = [*read_conditions(ROOT / folder).values()][-1]
    threads, cpus = here["num_threads"], here["num_cpus"]
    return (
        f"{here['device']}: {here['cpu']}, {threads} thread{'s' if threads > 1 else ''} of "
        f"{cpus}, {here['target']['dtype']}."
    )


@cache
def _summary(folder: str) -> Summary:
    return Summary(read_results(ROOT / folder))

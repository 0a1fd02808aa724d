"""Writes the parts of the documentation that the program and its results determine.

    python docs/generate.py            write what is stale
    python docs/generate.py --check    name what is stale and exit with 1

Whole pages: docs/methods/*.md, docs/cli.md, docs/reference.md, docs/results.md. Parts between
markers: the tables of methods and results in README.md and the example in docs/add-a-method.md.
README's first examples are those that docs/shown.json keeps, and the clients of docs/clients.md
those of docs/clients.json.
The figures of README.md are those of benchmarks/headline.json, which has to be what its rows give.
"""

from __future__ import annotations

import inspect
import itertools
import sys
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from typer import rich_utils
from typer.testing import CliRunner

from mtad import methods
from mtad.bench.report import main_table
from mtad.bench.report.markdown import grid
from mtad.bench.report.table import table_of
from mtad.bench.results import read_results
from mtad.cli import app
from mtad.cli.methods import contract
from mtad.core.schema import attribute_docs, options_of
from mtad.engine.stats import Stats
from mtad.errors import OptionError
from mtad.sampling.params import SamplingParams
from mtad.speculative.method import Method

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

sys.path.insert(0, str(ROOT / "docs"))

import client_table  # noqa: E402
import headline  # noqa: E402
import real_pair  # noqa: E402
import shown  # noqa: E402
from headline_tables import results_table as figures_table  # noqa: E402
from headline_tables import speed_table  # noqa: E402

DRAFTERS = {"draft": "the draft model", "target": "the target itself", "none": "no model"}
HELP_WIDTH = 112
BENCHMARKS = ROOT / "benchmarks"
METHOD_PAGES = "docs/methods"
RESULTS = BENCHMARKS / "results" / "2026-11-21-cpu-2-cores"
SHOWN = ("mean_quality", "perplexity", "acceptance_length", headline.RELATIVE)
"""The columns of README's table of the embedded pair."""
SPEED_PAIRS = {
    "embedded": "embedded, one thread",
    "widened_1b": "widened to 1.2 B and 0.07 B, bfloat16",
}
SPEED_RUNS = {
    "transformers assisted": "transformers assisted",
    "speculative_sampling": "speculative sampling",
    "mtad": "MTAD",
}


def notice(source: str) -> str:
    """The first line of a generated page."""
    return f"<!-- Written by docs/generate.py from {source}; change it there. -->"


def page(*parts: str) -> str:
    """A text of paragraphs and blocks."""
    return "\n\n".join(parts) + "\n"


def table(head: str, rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; `head` names the columns, separated by |."""
    lines = [f"| {head} |", "|" + "---|" * (head.count("|") + 1)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def prose(docstring: str) -> str:
    """A docstring as Markdown: its indented parts become code blocks."""
    parts = []
    for is_code, group in itertools.groupby(
        docstring.split("\n\n"), lambda part: part.startswith("    ")
    ):
        text = "\n\n".join(group)
        parts.append(f"```text\n{textwrap.dedent(text)}\n```" if is_code else text)
    return "\n\n".join(parts)


def spelled(value: Any) -> str:
    """A value as `-o name=value` takes it."""
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return "none" if value is None else str(value)


def sentence(text: str) -> str:
    """A description without its full stop."""
    return text.strip().removesuffix(".")


# --- methods ---------------------------------------------------------------------------------


def all_methods() -> list[type[Method]]:
    """The registered methods by name."""
    return [methods.find(name) for name in methods.own_names()]


def method_table(folder: str) -> str:
    """One row per method, with links into `folder`."""
    rows = (
        (
            f"[`{cls.name}`]({folder}{cls.name}.md)",
            contract(cls),
            DRAFTERS[cls.drafter],
            sentence(methods.sheet(cls)["rule"].partition("\n")[0]),
        )
        for cls in all_methods()
    )
    return table("method | contract | drafted by | what it is", rows)


def option_table(options: list[dict[str, Any]]) -> str:
    """One row per option of a method."""
    rows = (
        (f"`{o['name']}`", o["type"], f"`{spelled(o['default'])}`", sentence(o["description"]))
        for o in options
    )
    return table("option | value | default | meaning", rows)


def usage(cls: type[Method], facts: dict[str, Any]) -> str:
    """The command line that runs a method with its defaults written out."""
    given = [f"-o {o['name']}={spelled(o['default'])}" for o in facts["options"]]
    try:
        cls().check(SamplingParams())
    except OptionError:
        given.append("--temperature 0")
    return " ".join(
        [
            'mtad generate --chat "Hello! Name the day after Tuesday." --method',
            facts["name"],
            *given,
        ]
    )


def method_page(cls: type[Method]) -> str:
    """The page of one method."""
    facts, source = methods.sheet(cls), f"src/mtad/methods/{cls.name}.py"
    rows = [
        ("class", f"`mtad.{cls.__name__}`"),
        ("contract", contract(cls)),
        ("drafted by", DRAFTERS[cls.drafter]),
        ("source", cls.citation),
        ("code", f"[{source}](../../{source})"),
    ]
    return page(
        notice(source),
        f"# {cls.name}",
        table(" | ", rows),
        prose(facts["rule"]),
        "## Options",
        option_table(facts["options"]) if facts["options"] else "None of its own.",
        "## On the command line",
        f"```console\n$ {usage(cls, facts)}\n```",
    )


def method_index() -> str:
    """docs/methods/index.md."""
    return page(
        notice("src/mtad/methods"),
        "# Methods",
        "Lossless: the text follows the target's warped distribution exactly. Lossy: it does not, "
        "by design.\n[Choose a method](../choose-a-method.md) says when to take which.",
        method_table(""),
    )


# --- command line and reference --------------------------------------------------------------


def help_text(*words: str) -> str:
    """What `mtad … --help` prints, at a fixed width and without colours."""
    rich_utils.MAX_WIDTH, rich_utils.FORCE_TERMINAL = HELP_WIDTH, False
    rich_utils.COLOR_SYSTEM = None
    result = CliRunner().invoke(app, [*words, "--help"], catch_exceptions=False)
    return "\n".join(line.rstrip() for line in result.stdout.strip().splitlines())


def cli_page() -> str:
    """docs/cli.md: the help texts of the program."""
    blocks = [
        f"## {' '.join(words)}\n\n```text\n{help_text(*words[1:])}\n```"
        for words in commands(["mtad"], typer.main.get_command(app))
    ]
    return page(notice("src/mtad/cli"), "# Command line", *blocks)


def commands(words: list[str], command: Any) -> Iterator[list[str]]:
    """The words of a command, and of those below it."""
    yield words
    for name, below in sorted(getattr(command, "commands", {}).items()):
        yield from commands([*words, name], below)


def sampling_table() -> str:
    """One row per field of `SamplingParams`."""
    named = {"logit_bias": "numbers by token id", "suppress_tokens": "token ids"}
    named["eos_token_ids"] = "token ids"
    rows = (
        (f"`{o.name}`", named.get(o.name) or o.form, f"`{o.default}`", sentence(o.help))
        for o in options_of(SamplingParams).values()
    )
    return table("option | value | default | meaning", rows)


def statistics() -> Iterator[tuple[str, str]]:
    """Every number of `Stats` with its meaning, in the order of its code."""
    for name, text in attribute_docs(Stats.__doc__ or "").items():
        yield f"`{name}`", sentence(text)
    for name, member in vars(Stats).items():
        if isinstance(member, property):
            yield f"`{name}`", sentence(inspect.getdoc(member) or "")


def reference_page() -> str:
    """docs/reference.md: sampling options and statistics."""
    keys = Stats().as_dict()
    left_out = " and ".join(name for name, _ in statistics() if name.strip("`") not in keys)
    return page(
        notice("src/mtad/sampling/params.py and src/mtad/engine/stats.py"),
        "# Reference",
        "## Sampling options",
        "Keyword arguments of `generate` and `stream`; they apply to target and draft alike. "
        "There, `seed` may also\nbe one number per prompt and is random if not given, "
        "`eos_token_ids` defaults to the target's, and `stop` (a string\nor several) and "
        "`ignore_eos` come in addition.",
        sampling_table(),
        "## Statistics",
        prose(inspect.getdoc(sys.modules[Stats.__module__]) or ""),
        f"Attributes of `stats`, and, without {left_out}, keys of its JSON form:",
        table("name | meaning", statistics()),
    )


# --- results ----------------------------------------------------------------------------------


def results_table(folder: Path) -> str:
    """The overview of a results folder, from its rows."""
    return main_table(read_results(folder))


def results_page(real: list[str], embedded: str) -> str:
    """docs/results.md: what the recipes gave on the real pair, then on the embedded one.

    Args:
        real: the sections of the real pair.
        embedded: the main table of the embedded pair.
    """
    parts = []
    for folder in sorted((RESULTS / "ablations").iterdir()):
        recipe = BENCHMARKS / "recipes" / "ablations" / f"{folder.name}.toml"
        title = recipe.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
        parts += [f"## {folder.name}", title, results_table(folder)]
    where = f"benchmarks/results/{RESULTS.name}"
    return page(
        notice("benchmarks/results"),
        *real,
        "# Results on the embedded pair",
        f"Rows and conditions: [{where}](../{where}); `mtad bench report` makes further tables and "
        "plots of a folder there. What they say:\n[Choose a method](choose-a-method.md). Brackets "
        "are 95 % intervals over items; how they are made: "
        "[Benchmarks](benchmarks.md#what-the-report-says).",
        "## The paper's comparison",
        "`benchmarks/recipes/embedded.toml`. Options were chosen on other items, in `chosen.json`.",
        embedded,
        "## Every method at its fastest",
        "`benchmarks/recipes/embedded_speed.toml`. Options were chosen by tokens/s alone, on other "
        "items.",
        results_table(RESULTS / "embedded_speed"),
        "# Ablations",
        "`benchmarks/recipes/ablations`. Quality only; without a grid, the same options for all: 4 "
        "draft tokens, 4 beams,\nthreshold 0.5 unless the row says otherwise.",
        *parts,
    )


# --- files -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """A generated text of the documentation.

    Attributes:
        path: the file, from the root of the repository.
        text: what it should hold.
        marker: names the comments that the text stands between; "" if it is the whole file.
    """

    path: str
    text: str
    marker: str = ""


def between(whole: str, marker: str, text: str) -> str:
    """The whole with `text` between the comments `marker:begin` and `marker:end`."""
    begin, end = f"<!-- {marker}:begin -->", f"<!-- {marker}:end -->"
    before, rest = whole.split(begin)
    inner = f"\n\n{text}\n\n" if text else "\n"
    return f"{before}{begin}{inner}{end}{rest.split(end)[1]}"


def from_program() -> list[Part]:
    """The parts that the program's own texts make."""
    example = (ROOT / "examples" / "custom_method.py").read_text(encoding="utf-8").strip()
    return [
        *(Part(f"{METHOD_PAGES}/{cls.name}.md", method_page(cls)) for cls in all_methods()),
        Part(f"{METHOD_PAGES}/index.md", method_index()),
        Part("docs/cli.md", cli_page()),
        Part("docs/reference.md", reference_page()),
        Part("docs/add-a-method.md", f"```python\n{example}\n```", "example"),
        Part("README.md", method_table("docs/methods/"), "methods"),
        *from_examples(),
        Part("docs/clients.md", clients(), "clients"),
    ]


def clients() -> str:
    """The clients whose calls were tried against the server, and how that went."""
    return table(
        "client | calls that pass | calls that do not, and why",
        client_table.rows(client_table.read()),
    )


def from_examples() -> list[Part]:
    """The parts that README's first examples printed."""
    command = shown.commands()[shown.REAL]
    return [
        Part("README.md", f"```text\n{command}\n```", "real-command"),
        Part("docs/images/smollm2.svg", shown.picture(command, shown.read()[shown.REAL])),
        Part("README.md", shown.block(shown.EMBEDDED), "demo-output"),
    ]


def from_results() -> list[Part]:
    """The parts that the rows of `RESULTS` make; this reads all of them."""
    figures = headline.again(headline.read())
    embedded = grid(table_of("", figures_table(figures, "embedded")))
    short = figures_table(figures, "embedded", SHOWN)
    speed = grid(table_of("", speed_table(figures, SPEED_PAIRS, SPEED_RUNS)))
    return [
        Part(headline.FILE.relative_to(ROOT).as_posix(), headline.text(figures)),
        Part("docs/results.md", results_page(real_pair.results_sections(figures), embedded)),
        Part("README.md", real_pair.readme_section(figures), "real-pair"),
        Part("README.md", grid(table_of("", short)), "results"),
        Part("README.md", speed, "speed"),
    ]


def stale(parts: Iterable[Part], root: Path = ROOT) -> dict[Path, str | None]:
    """Files that do not hold what they should, with what that is; None for those to delete."""
    there = {p: p.read_text(encoding="utf-8") for p in (root / METHOD_PAGES).glob("*.md")}
    wanted: dict[Path, str | None] = dict.fromkeys(there)
    for part in parts:
        path = root / part.path
        if path not in there and path.exists():
            there[path] = path.read_text(encoding="utf-8")
        before = wanted.get(path) or there.get(path, "")
        wanted[path] = between(before, part.marker, part.text) if part.marker else part.text
    return {path: text for path, text in wanted.items() if text is None or there.get(path) != text}


def check(parts: Iterable[Part], root: Path = ROOT) -> int:
    """Name what is stale; the exit status."""
    wrong = stale(parts, root)
    for path in wrong:
        print(f"stale: {path.relative_to(root)}")
    if wrong:
        print("run: .venv/bin/python docs/generate.py")
    return 1 if wrong else 0


def write(parts: Iterable[Part], root: Path = ROOT) -> int:
    """Write what is stale; the exit status."""
    for path, text in stale(parts, root).items():
        if text is None:
            path.unlink()
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        print(f"{'deleted' if text is None else 'written'}: {path.relative_to(root)}")
    return 0


if __name__ == "__main__":
    if sys.argv[1:] not in ([], ["--check"]):
        sys.exit(f"usage: python {sys.argv[0]} [--check]")
    run = check if sys.argv[1:] else write
    sys.exit(run([*from_program(), *from_results()]))

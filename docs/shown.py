"""Keeps docs/shown.json: what the first examples of README.md print.

    python docs/shown.py            run the examples whose pairs are here, and keep what they print
    python docs/shown.py NAME …     run these

README.md and the picture beside it are made from the file by docs/generate.py, so that they can be
checked without the models. A test runs the examples again where their pairs are here and compares
everything but the speeds.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterator
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Final

from typer.testing import CliRunner

from mtad.cli import app
from mtad.pairs import PAIRS

ROOT: Final = Path(__file__).resolve().parents[1]
FILE: Final = ROOT / "docs" / "shown.json"
REAL, EMBEDDED = "smollm2", "demo"
REAL_COMMAND: Final = (
    'mtad generate --pair smollm2 --chat "Write a Python function that adds two numbers." '
    "--top-k 10 --top-p 0.9 --seed 0 --max-new-tokens 64 --show-blocks"
)
_SPEED: Final = re.compile(r"[\d.]+(?= tokens/s)")
_MARKED: Final = re.compile(r"⟨(?P<endpoint>[^⟩]*)⟩|(?P<border>│)|(?P<accepted>[^⟨│]+)")
_FILLS: Final = {
    "plain": "#c9d1d9",
    "accepted": "#7ee787",
    "endpoint": "#f2cc60",
    "border": "#6e7681",
}
_COLUMNS, _CHARACTER, _LINE, _MARGIN = 100, 8.4, 20, 16

Letter = tuple[str, str]
"""A character and the name of its style."""


def commands() -> dict[str, str]:
    """The command of each example, by its pair."""
    script = (ROOT / "scripts" / "demo").read_text(encoding="utf-8")
    arguments = script.partition("set -- ")[2].partition("\nfi")[0]
    return {REAL: REAL_COMMAND, EMBEDDED: f"mtad generate {arguments}"}


def printed(command: str) -> str:
    """What a command of mtad prints where there is no terminal: its text, then its remarks."""
    result = CliRunner().invoke(app, shlex.split(command)[1:], catch_exceptions=False)
    if result.exit_code:
        raise SystemExit(f"{command} failed:\n{result.output}")
    return f"{result.stdout.rstrip()}\n{result.stderr.strip()}"


def without_speeds(output: str) -> str:
    """The output without the numbers that are other ones each time."""
    return _SPEED.sub("…", output)


def read() -> dict[str, str]:
    """What each example printed."""
    return dict(json.loads(FILE.read_text(encoding="utf-8")))


def block(name: str) -> str:
    """What an example printed, as a block of Markdown."""
    return f"```text\n{read()[name]}\n```"


# --- the picture ------------------------------------------------------------------------------


def picture(command: str, output: str) -> str:
    """An SVG of a terminal with the command and what it printed, in colours instead of marks."""
    *answer, legend, remarks = output.split("\n")
    text = "\n".join(answer)
    shown = [*_plain(f"$ {command}\n"), *_coloured(text), *_plain("\n")]
    shown += [*_coloured(legend), *_plain(f"\n{remarks}")]
    lines = [*_lines(shown)]
    width = round(_COLUMNS * _CHARACTER) + 2 * _MARGIN
    height = len(lines) * _LINE + 2 * _MARGIN
    rows = "\n".join(_row(number, line) for number, line in enumerate(lines))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="ui-monospace, Menlo, Consolas, monospace" '
        f'font-size="14">\n<rect width="100%" height="100%" rx="8" fill="#0d1117"/>\n{rows}\n'
        "</svg>\n"
    )


def _plain(text: str) -> Iterator[Letter]:
    return ((letter, "plain") for letter in text)


def _coloured(text: str) -> Iterator[Letter]:
    """The characters of a marked text, without its marks."""
    for piece in _MARKED.finditer(text):
        name = piece.lastgroup or "accepted"
        yield from ((letter, name) for letter in piece[name])


def _lines(letters: list[Letter]) -> Iterator[list[Letter]]:
    """The lines, cut where they are full."""
    line: list[Letter] = []
    for letter in letters:
        if letter[0] == "\n" or len(line) == _COLUMNS:
            yield line
            line = []
        if letter[0] != "\n":
            line.append(letter)
    yield line


def _row(number: int, line: list[Letter]) -> str:
    """A line as SVG."""
    spans = []
    for name, group in groupby(line, key=lambda letter: letter[1]):
        text = "".join(letter for letter, _ in group)
        decoration = ' text-decoration="underline"' if name == "endpoint" else ""
        spans.append(f'<tspan fill="{_FILLS[name]}"{decoration}>{escape(text)}</tspan>')
    length = f' textLength="{len(line) * _CHARACTER:.1f}"' if line else ""
    place = f'x="{_MARGIN}" y="{_MARGIN + number * _LINE + 14}"'
    return f'<text {place}{length} xml:space="preserve">{"".join(spans)}</text>'


def main(names: list[str]) -> str:
    """Run the examples; what was done."""
    kept = read() if FILE.exists() else {}
    wanted = names or [name for name in commands() if PAIRS[name].is_here]
    kept |= {name: printed(commands()[name]) for name in wanted}
    text = json.dumps(
        {name: kept[name] for name in commands() if name in kept}, indent=2, ensure_ascii=False
    )
    FILE.write_text(f"{text}\n", encoding="utf-8")
    return f"{', '.join(wanted)} in {FILE}; next: python docs/generate.py"


if __name__ == "__main__":
    print(main(sys.argv[1:]))

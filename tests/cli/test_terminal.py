"""What a terminal shows: streamed text and statistics that don't garble each other, and blocks."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console
from support.metaspace import metaspace
from support.saved_pair import pair, tokenizer

from mtad.cli.blocks import ACCEPTED, ENDPOINT, BlockPainter
from mtad.cli.terminal import LiveView, StreamView, progress, summary
from mtad.engine.session import Block
from mtad.engine.stats import Stats
from mtad.methods.mtad import MTAD


class Screen:
    """A terminal of a fixed width that scrolls; knows the codes that rich's live display sends."""

    def __init__(self, width: int) -> None:
        self.width, self.rows, self.row, self.column = width, [""], 0, 0

    def feed(self, output: str) -> None:
        for code, text in re.findall(r"(\x1b\[[?\d;]*[A-Za-z])|([^\x1b]+)", output):
            self._obey(code) if code else [self._put(c) for c in text]

    def _obey(self, code: str) -> None:
        count = int(code[2:-1] or 1) if code[2:-1].isdigit() or code[2:-1] == "" else 0
        if code.endswith("A"):
            assert self.row >= count, "the cursor leaves the screen"
            self.row -= count
        elif code.endswith("K"):
            self.rows[self.row] = ""
        else:
            assert code[-1] in "mhl", code

    def _put(self, character: str) -> None:
        if character == "\r":
            self.column = 0
            return
        if character == "\n" or self.column == self.width:
            self.row, self.column = self.row + 1, 0
            self.rows += [""] * (self.row + 1 - len(self.rows))
        if character != "\n":
            line = self.rows[self.row].ljust(self.column)
            self.rows[self.row] = line[: self.column] + character + line[self.column + 1 :]
            self.column += 1


def shown(text: str, width: int, step: int) -> list[str]:
    """The rows on the screen at the end, after every row of the live view was checked."""
    buffer, screen = io.StringIO(), Screen(width)
    console = Console(file=buffer, force_terminal=True, width=width, height=6, highlight=False)
    with LiveView(console) as view:
        for start in range(0, len(text), step):
            view.add([(text[start : start + step], "")], "12 tokens · STATISTICS")
            screen.feed(_taken(buffer))
            assert sum("STATISTICS" in row for row in screen.rows) == 1
    screen.feed(_taken(buffer))
    return [row for row in screen.rows if row]


def _taken(buffer: io.StringIO) -> str:
    """What was written since the last time."""
    written = buffer.getvalue()
    buffer.seek(0)
    buffer.truncate()
    return written


def wrapped(text: str, width: int) -> list[str]:
    """How a terminal of that width shows the text."""
    rows = [
        line[start : start + width]
        for line in text.split("\n")
        for start in range(0, len(line), width)
    ]
    return [row for row in rows if row]


@pytest.mark.parametrize("step", [1, 3, 50])
@pytest.mark.parametrize(
    "text",
    [
        "short",
        "two\nlines",
        "a paragraph much longer than the screen is high " * 8,
        "def f(x):\n    if x:\n        return 1\n\n\n    return 2\n",
        "[bold]not markup[/bold] :smile: x",
    ],
)
def test_the_live_view_leaves_exactly_the_text(text: str, step: int) -> None:
    rows = shown(text, width=30, step=step)
    assert [row.rstrip() for row in rows] == [row.rstrip() for row in wrapped(text, 30)]


def test_control_characters_cannot_rule_the_terminal() -> None:
    assert shown("a\x1b[2Jb\x07\rc", width=30, step=50) == ["a\ufffd[2Jb\ufffdc"]


def test_a_pipe_gets_the_bytes_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    with StreamView() as view:
        view.add([("a\tb \x1b\x08\r\n", "")], "statistics")
        view.add([("  c", "")], "statistics")
    assert capsys.readouterr() == ("a\tb \x1b\x08\r\n  c\n", "")


def block(ids: list[int], accepted: int, finish: str | None = None) -> Block:
    return Block(0, tuple(ids), accepted, 4, 4, finish)


def plain(painted: list[tuple[str, str]]) -> str:
    return "".join(text for text, _ in painted)


def test_blocks_are_painted_by_origin() -> None:
    the, cat, sat = (tokenizer()(word).input_ids for word in ("the", " cat", " sat"))
    painter = BlockPainter(tokenizer())
    painter.add(block([*the, *cat], len(the)))
    painted = painter.take(len("the cat"))
    accepted = "".join(text for text, style in painted if style == ACCEPTED)
    assert (plain(painted), accepted) == ("the cat│", "the")
    painter.add(block(sat, len(sat), "length"))
    assert plain(painter.take(2)) == " s", "what a stop string may cut off waits"
    rest = painter.take(2)
    assert plain(rest) == "at│"
    assert {style for _, style in rest} == {ACCEPTED, "dim"}


def test_without_colours_endpoints_stand_in_brackets() -> None:
    painter = BlockPainter(tokenizer(), plain=True)
    ids = [*tokenizer()("the").input_ids, tokenizer().convert_tokens_to_ids("x")]
    painter.add(block(ids, len(ids) - 1))
    assert plain(painter.take(4)) == "the⟨x⟩│"
    assert "⟨endpoint token" in painter.legend().plain


def test_the_first_piece_keeps_its_space() -> None:
    hello, world = metaspace().convert_tokens_to_ids(["▁hello", "▁world"])
    painter = BlockPainter(metaspace(), context=[hello])
    painter.add(block([world], 1, "length"))
    assert plain(painter.take(6)) == " world│"


def test_a_character_over_two_blocks_is_whole() -> None:
    ids = next(ids for character in "🙂🙃🥨🦀" if len(ids := tokenizer()(character).input_ids) > 1)
    painter = BlockPainter(tokenizer())
    painter.add(block(ids[:-1], 0))
    assert painter.take(0) == []
    painter.add(block(ids[-1:], 0))
    painted = painter.take(1)
    assert "\ufffd" not in plain(painted)
    assert painted[0][1] == ENDPOINT


@pytest.mark.parametrize("stop", [[], ["e"]])
def test_the_painted_text_is_the_text(stop: list[str]) -> None:
    painter, text = BlockPainter(tokenizer()), ""
    options = {"seed": 5, "max_new_tokens": 60, "ignore_eos": True, "stop": stop}
    chunks = list(pair().stream("the cat", MTAD(accept_threshold=0.2), **options))
    for chunk in chunks:
        if chunk.block:
            painter.add(chunk.block)
        text += plain(painter.take(len(chunk.text))).replace("│", "")
    completion = chunks[-1].completion
    assert completion is not None
    assert text == completion.text


def test_statistics_and_summary_without_a_single_token() -> None:
    assert progress(Stats()) == "0 tokens · – tokens/s · mean acceptance length –"
    line = summary(Stats(), MTAD(), 7)
    assert "draft acceptance rate –" in line and line.endswith("mtad (lossy) · seed 7")
    assert "mtad (lossy of the int8 target)" in summary(Stats(), MTAD(), 7, "int8")
    assert "mtad (lossy)" in summary(Stats(), MTAD(), 7, "bf16")
    kept = Stats(kept={"regret": 0.471132, "certified_gain": 2.0})
    said = summary(kept, MTAD(), 7)
    assert said.endswith("mtad (lossy) · regret 0.4711 · certified gain 2 · seed 7")

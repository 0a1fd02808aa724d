"""Streams text to stdout, with a live line of statistics on stderr.

Where stdout and stderr are one terminal, finished lines are printed above a live region that holds
the line being written and the statistics. Elsewhere stdout gets the plain text and nothing else.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from mtad.api.completion import Chunk, Completion
from mtad.cli.blocks import BlockPainter
from mtad.engine.stats import Stats
from mtad.speculative.method import Method

Pieces: TypeAlias = Sequence[tuple[str, str]]
"""Pieces of text with their styles; rich's own `Text` would drop control characters."""

_CONTROL: dict[int, str | None] = {
    c: "\ufffd" for c in (*range(32), *range(127, 160)) if chr(c) not in "\n\t"
}
_CONTROL[ord("\r")] = None

_ON_REQUEST: dict[str, Any] = {
    "auto_refresh": False,
    "transient": True,
    "redirect_stdout": False,
    "redirect_stderr": False,
}
"""Options of a live display that draws when it is updated, and leaves nothing behind."""


@dataclass
class Shown:
    """What the user has seen of an answer.

    Attributes:
        text: as far as it came.
        stats: of this text; the pair's own once the answer is complete.
        completion: of an answer that came to its end.
    """

    text: str = ""
    stats: Stats = field(default_factory=Stats)
    completion: Completion | None = None

    def follow(
        self,
        chunks: Iterator[Chunk],
        painter: BlockPainter | None = None,
        is_stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        """Show the chunks as they come, until the last one or until `is_stopped`."""
        started = time.perf_counter()
        with open_view() as screen:
            for chunk in chunks:
                self._take(chunk, time.perf_counter() - started)
                screen.add(_pieces(chunk, painter), progress(self.stats))
                if is_stopped():
                    break

    def _take(self, chunk: Chunk, seconds: float) -> None:
        """Add a chunk that came after so many seconds."""
        self.text += chunk.text
        if chunk.block:
            self.stats.add(chunk.block)
        self.stats.decode_s = seconds
        if chunk.completion is not None:
            self.completion, self.stats = chunk.completion, chunk.completion.stats


def _pieces(chunk: Chunk, painter: BlockPainter | None) -> Pieces:
    """A chunk's text as it is shown, coloured by origin if there is a painter."""
    if painter is None:
        return [(chunk.text, "")]
    if chunk.block:
        painter.add(chunk.block)
    return painter.take(len(chunk.text))


def open_view() -> LiveView | StreamView:
    """The view that fits where stdout and stderr go."""
    console = Console(highlight=False)
    if sys.stdout.isatty() and sys.stderr.isatty() and not console.is_dumb_terminal:
        return LiveView(console)
    return StreamView()


class LiveView(Live):
    """One terminal for text and statistics.

    Args:
        console: writes to the terminal.
    """

    def __init__(self, console: Console) -> None:
        super().__init__(console=console, **_ON_REQUEST)
        self.line = Text()

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        """Remove the statistics and end the last line."""
        super().__exit__(kind, *rest)
        if self.line or kind is None:
            self.console.print(self.line, soft_wrap=True)

    def add(self, pieces: Pieces, status: str) -> None:
        """Print the lines that are complete; show the last one above the status line."""
        *done, self.line = (self.line + _printable(pieces)).split("\n", allow_blank=True)
        for line in done:
            self.console.print(line, soft_wrap=True)
        self.update(Group(self._tail(), _status(status)), refresh=True)

    def _tail(self) -> RenderableType:
        """The end of the line being written, as much as the terminal is high."""
        rows = self.line.wrap(self.console, self.console.width)
        return Text("\n").join(rows[-max(1, self.console.height - 3) :])


class StreamView(Live):
    """Text to stdout as it comes; statistics to stderr only if that alone is a terminal."""

    def __init__(self) -> None:
        self.is_terminal, self.has_written = sys.stdout.isatty(), False
        shown = sys.stderr.isatty() and not self.is_terminal
        super().__init__(console=Console(stderr=True, quiet=not shown), **_ON_REQUEST)
        self.out = Console(highlight=False)

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        """Remove the statistics and end the last line."""
        super().__exit__(kind, *rest)
        if self.has_written or kind is None:
            self._write([("\n", "")])

    def add(self, pieces: Pieces, status: str) -> None:
        """Write and flush the text; what is not a terminal gets exactly what the model said."""
        self._write(pieces)
        self.has_written = True
        self.update(_status(status), refresh=True)

    def _write(self, pieces: Pieces) -> None:
        if self.is_terminal:
            self.out.print(_printable(pieces), end="", soft_wrap=True)
        else:
            sys.stdout.write("".join(text for text, _ in pieces))
        sys.stdout.flush()


def progress(stats: Stats) -> str:
    """Speed so far and mean acceptance length, for the live line."""
    return (
        f"{stats.num_output_tokens} tokens · {speed(stats)} "
        f"· mean acceptance length {number(stats.mean_acceptance_length, 2)}"
    )


def speed(stats: Stats) -> str:
    """End-to-end tokens per second."""
    return f"{number(stats.end_to_end_tokens_per_second)} tokens/s"


def summary(stats: Stats, method: Method, seed: int, weights: str = "") -> str:
    """One line on what happened, with the names of the formulas.

    Args:
        stats, method, seed: of the text.
        weights: form of the target's, see `qualified`.
    """
    both = stats.prefill_s > 0
    decode_only = f"{number(stats.output_tokens_per_second)} tokens/s decode only, "
    return " · ".join(
        (
            f"{stats.num_output_tokens} tokens",
            f"{decode_only if both else ''}{speed(stats)} end to end",
            "mean acceptance length (block efficiency) " + number(stats.mean_acceptance_length, 2),
            f"draft acceptance rate {percent(stats.draft_acceptance_rate)}",
            qualified(method, weights),
            *(f"{name.replace('_', ' ')} {value:.4g}" for name, value in stats.receipt.items()),
            f"seed {seed}",
            *_guarding(stats),
        )
    )


def qualified(method: Method, weights: str = "") -> str:
    """A method's name, and whether it is lossless with its options, of which target.

    Args:
        method: with its options.
        weights: form of the target's; int8 makes it another target.
    """
    contract = "lossless" if method.is_lossless else "lossy"
    return f"{method.name} ({contract}{' of the int8 target' if weights == 'int8' else ''})"


def _guarding(stats: Stats) -> list[str]:
    """What the guard did, if it did anything."""
    if stats.fallback:
        return [f"fell back to {stats.fallback}"]
    plain = stats.num_plain_steps
    return [f"{plain} plain step{'s' * (plain > 1)} of the guard"] if plain else []


def number(value: float | None, digits: int = 1) -> str:
    """A number, or a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def percent(rate: float | None) -> str:
    """A rate in percent, or a dash where there is none."""
    return "–" if rate is None else f"{rate:.1%}"


def _status(text: str) -> Text:
    return Text(text, style="dim", no_wrap=True, overflow="ellipsis")


def _printable(pieces: Pieces) -> Text:
    """The text without control characters, which could control the terminal."""
    return Text.assemble(*((text.translate(_CONTROL), style) for text, style in pieces))

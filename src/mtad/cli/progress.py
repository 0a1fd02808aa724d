"""How far long work is, as a bar on stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text


@contextmanager
def shown() -> Iterator[Any]:
    """An observer with a bar on stderr; lines to be kept stand above it."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[status]}"),
    )
    with Progress(*columns, console=console) as bars:

        class Shown:
            """Shows how far the work is."""

            bar = bars.add_task("loading", total=None, status="")

            def begin(self, phase: str, total: float) -> None:
                """A phase begins."""
                bars.reset(self.bar, total=total, description=phase, status="")

            def advance(self, done: float, status: str) -> None:
                """How much of it is done."""
                bars.update(self.bar, completed=done, status=status)

            def say(self, text: str) -> None:
                """A line above the bar."""
                console.print(Text(text), soft_wrap=True)

        yield Shown()


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on stderr with the time left, as a callback: the step, rows done, all rows."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(elapsed_when_finished=False),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, speed_estimate_period=3600.0) as bars:
        bar, before = bars.add_task("preparing", total=None), -1

        def show(text: str, done: int, total: int) -> None:
            nonlocal before
            if before < 0 or done < before:  # what is there already says nothing of the speed
                bars.reset(bar, completed=done, total=total)
            before = done
            bars.update(bar, description=text, completed=done, total=total)

        yield show

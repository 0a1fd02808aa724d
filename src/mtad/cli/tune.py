"""`mtad tune`: the method and options that are fastest for a pair on the user's prompts.

Imports nothing heavy: it is read for `mtad --help`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mtad.cli.doctor import PromptFlags
from mtad.cli.flags import flag, spelled
from mtad.model.settings import ModelSettings

if TYPE_CHECKING:
    from mtad.advice.halving import Arm, Tuned

_loss = partial(flag, panel="Method")


@dataclass(frozen=True)
class TuneFlags(PromptFlags):
    """What the user asked of `mtad tune`; the help texts say what each field means."""

    num_prompts: Annotated[
        int, flag(panel="Many prompts", min=2, help="Asked at most; the first round asks 4.")
    ] = 24
    max_loss: Annotated[
        float | None,
        _loss(
            min=0.0,
            metavar="PERCENT",
            help="Also try lossy methods, whose perplexity under the target may be so much higher.",
        ),
    ] = None
    max_regret: Annotated[
        float | None,
        _loss(min=0.0, metavar="NATS", help="The same in nats per token of log-likelihood."),
    ] = None
    output: Annotated[
        Path, flag(panel="Output", file_okay=False, help="Folder of the configurations.")
    ] = Path("tuned")

    def __post_init__(self) -> None:
        """Refuse flags that don't go together."""
        super().__post_init__()
        if self.max_loss is not None and self.max_regret is not None:
            raise ValueError("give --max-loss or --max-regret, and not both")

    @property
    def models(self) -> dict[str, Any]:
        """The settings of the models that are not the defaults."""
        given = {f.name: getattr(self, f.name) for f in fields(ModelSettings)}
        return {f.name: given[f.name] for f in fields(ModelSettings) if given[f.name] != f.default}

    @property
    def found_models(self) -> dict[str, Any]:
        """The same with whole paths, for a file that may be read from elsewhere."""
        paths = {
            n: Path(self.models[n]) for n in ("target_model", "draft_model") if n in self.models
        }
        return self.models | {n: str(p.resolve()) for n, p in paths.items() if p.exists()}

    @property
    def command(self) -> str:
        """`mtad generate` with these models."""
        found = ["mtad generate PROMPT"]
        for name, value in self.models.items():
            found.append(spelled(name) if value is True else f"{spelled(name)} {quote(str(value))}")
        return " ".join(found)


def run(flags: TuneFlags) -> None:
    """Compare the settings, write the fastest down, and say how to use them."""
    from mtad.advice.spelling import named
    from mtad.advice.tuning import LOSSLESS, as_dict, nats_of, table, tune, write
    from mtad.cli.printing import print_json
    from mtad.cli.progress import shown

    max_loss = flags.max_regret if flags.max_loss is None else nats_of(flags.max_loss)
    known: list[Tuned] = []
    try:
        with shown() as observer:
            pair = flags.load()
            asked = flags.asked(pair.tokenizer)
            tuned = tune(pair, asked, observer, max_loss, known.append, **flags.sampling)
    except (KeyboardInterrupt, Exception):
        _tell(flags, known)
        raise
    chosen = write(tuned, flags.output, flags.found_models, flags.sampling)
    if flags.json:
        print_json(as_dict(tuned))
        return
    typer.echo("\n".join(table(tuned)))
    for name, arm in chosen.items():
        what = "without loss" if name == LOSSLESS else f"within {max_loss:.4g} nats per token"
        typer.echo(f"\nfastest {what}: {_said(tuned, arm)}")
        typer.echo(f"  {flags.command} --method {named(arm.method)}")
        typer.echo(f"  {flags.command} --config {flags.output / name}.toml")
        typer.echo(f"  mtad serve --config {flags.output / f'serve-{name}'}.toml")


def _tell(flags: TuneFlags, known: Sequence[Tuned]) -> None:
    """Say on stderr what is known of a comparison that ends early, and that nothing was written."""
    from mtad.advice.spelling import named

    if not known:
        return
    tuned, best = known[-1], known[-1].lossless
    typer.echo(
        f"stopped after prompt {len(tuned.plain.texts)}; no configuration was written. Fastest "
        f"without loss so far: {_said(tuned, best)}\n"
        f"  {flags.command} --method {named(best.method)}",
        err=True,
    )


def _said(tuned: Tuned, arm: Arm) -> str:
    from mtad.advice.spelling import interval, named

    return f"{named(arm.method)}, {interval(arm.over(tuned.plain))} times plain decoding"

"""`mtad distill`: a draft for any target.

Imports nothing heavy: it is read for `mtad --help`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

from mtad.cli.flags import DebugFlag, flag, one_of
from mtad.distill import Kind

if TYPE_CHECKING:
    from mtad.distill.plan import Plan
    from mtad.distill.prompts import Chat

_draft = partial(flag, panel="Draft")
_answers = partial(flag, panel="Answers")


@dataclass(frozen=True, kw_only=True)
class DistillFlags(DebugFlag):
    """What the user asked for; the help texts say what each field means."""

    target_model: Annotated[
        str, _draft("--target-model", "--target", help="Folder, hub name or GGUF file.")
    ]
    output: Annotated[
        Path, _draft(file_okay=False, help="Folder of the draft; given again, it goes on.")
    ]
    kind: Annotated[
        Kind,
        _draft(
            parser=one_of(get_args(Kind)),
            metavar=f"<{'|'.join(get_args(Kind))}>",
            help="What it is: a head that reads the target's hidden state, or a small model of its "
            "own.",
        ),
    ] = "head"
    num_layers: Annotated[
        int | None,
        _draft(min=1, help="Of the target, that a standalone draft begins with. Default: 3."),
    ] = None
    hours: Annotated[float, _draft(help="Of wall time, over all runs.")] = 2.0
    draft_vocab_size: Annotated[
        int, _draft(help="Tokens that the draft can say: the most frequent ones.")
    ] = 8192
    dtype: Annotated[str, _draft(help="Of the target's weights; auto: as in the checkpoint.")] = (
        "auto"
    )
    device: Annotated[str, _draft(help="auto, cpu, cuda, cuda:1, …")] = "auto"

    prompts: Annotated[
        Path | None,
        _answers(
            exists=True,
            dir_okay=False,
            help="Your own, one per line, as --prompt-file takes them; else bundled ones.",
        ),
    ] = None
    also_bundled: Annotated[
        bool,
        _answers(
            "--also-bundled",
            help="Bundled prompts and the target's own too, in turns with --prompts.",
        ),
    ] = False
    temperature: Annotated[
        list[float] | None,
        _answers(min=0.0, help="To be served; may be repeated. Default: 0 and 1."),
    ] = None
    top_k: Annotated[int, _answers(min=0, help="At temperatures above 0.")] = 10
    top_p: Annotated[float, _answers(min=0.0, max=1.0, help="At temperatures above 0.")] = 0.9
    max_new_tokens: Annotated[int, _answers(min=8, help="Of an answer.")] = 192
    batch_size: Annotated[int, _answers(min=1, help="Answers decoded at a time.")] = 64
    seed: Annotated[int, _answers(help="Of prompts and answers.")] = 0

    def plan(self) -> Plan:
        """The plan that the flags describe."""
        from mtad.distill.corpus import Sampling
        from mtad.distill.plan import Plan

        return Plan(
            target=self.target_model,
            kind=self.kind,
            num_layers=self.num_layers,
            hours=self.hours,
            draft_vocab_size=self.draft_vocab_size,
            sampling=Sampling(
                temperatures=tuple(self.temperature or (0.0, 1.0)),
                top_k=self.top_k,
                top_p=self.top_p,
                max_new_tokens=self.max_new_tokens,
                batch_size=self.batch_size,
                seed=self.seed,
            ),
            prompts=None if self.prompts is None else str(self.prompts),
            also_bundled=self.also_bundled,
        )

    def chats(self) -> list[Chat] | None:
        """The user's prompts."""
        if self.prompts is None:
            return None
        from mtad.cli.generate.prompts import read_prompts

        found: list[Any] = [item.prompt(()) for item in read_prompts(self.prompts, (), chat=True)]
        return found


def run(flags: DistillFlags) -> None:
    """Make the draft, write it down, and say what it is worth."""
    import typer

    from mtad.api.pair import load_pair
    from mtad.cli.progress import shown
    from mtad.distill.result import write_draft
    from mtad.distill.run import distill
    from mtad.model.loading import quiet

    plan, chats = flags.plan(), flags.chats()
    quiet()
    pair = load_pair(target=flags.target_model, dtype=flags.dtype, device=flags.device)
    with shown() as observer:
        made = distill(pair, plan, flags.output / "work", observer, chats)
        figures = write_draft(pair, plan, made, flags.output, observer)
    if made.stopped:
        typer.echo(f"ended early: {made.stopped}", err=True)
    typer.echo(figures.sentence())
    typer.echo(
        f"the draft is in {flags.output}; next: mtad generate --target-model "
        f"{flags.target_model} --draft-model {flags.output} --method speculative_sampling PROMPT",
        err=True,
    )

"""`mtad generate --prompt-file`: answers every line of a file and resumes where it was cut off."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mtad.api.pair import Completion, ModelPair
from mtad.cli.generate.answers import AnswerFile, Record, record_of
from mtad.cli.generate.prompts import Item, read_prompts
from mtad.cli.settings import Settings
from mtad.cli.start import load, new_seed, system_message
from mtad.cli.terminal import speed, summary
from mtad.core.options import jsonable
from mtad.engine.stats import Stats, total
from mtad.errors import MtadError
from mtad.methods import describe
from mtad.speculative.method import Method

BATCHES = 4
"""As many prompts as fill the batch so often are given to the models at a time."""


def answer_file(settings: Settings, method: Method) -> None:
    """Answer the lines that have no answer yet.

    Raises:
        ValueError: the output cannot be continued.
        MtadError: a line is malformed, or the models cannot be loaded or decoded.
    """
    assert settings.prompt_file is not None
    _check_output(settings)
    items = read_prompts(settings.prompt_file, system_message(settings), settings.chat)
    answers = AnswerFile(settings.output, settings.overwrite)
    given = answers.seed if settings.seed is None else settings.seed
    seed = new_seed(given)
    run = _Run(settings, method, seed, _conditions(settings, method, seed))
    done = answers.done(items, run.conditions)
    rest = [item for item in items if item.index not in done]
    if done:
        typer.echo(f"{len(done)} of {len(items)} answers are in {settings.output}", err=True)
    if rest:
        run.answer(rest, answers)


def line_seed(seed: int, index: int) -> int:
    """The seed of a line, which depends on the run's seed and the line's index alone."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{index}".encode()).digest()[:4], "big")


def _check_output(settings: Settings) -> None:
    """Refuse an output that cannot be written or would destroy the prompts."""
    output, prompts = settings.output, settings.prompt_file
    if output is None or prompts is None:
        return
    if not output.parent.is_dir():
        raise ValueError(f"--output is {output}, and there is no folder {output.parent}")
    if output.exists() and output.samefile(prompts):
        raise ValueError("--output is the --prompt-file; choose another file")


def _conditions(settings: Settings, method: Method, seed: int) -> Record:
    """All that decides what the answers are."""
    s = settings
    own = "none" if s.target_model else s.name
    models = {"target": s.name, "draft": s.draft_model or own}
    conditions: Record = jsonable(
        {
            "models": models
            | {"dtype": s.dtype, "draft_dtype": s.draft_dtype or s.dtype}
            | _forms(s),
            "method": describe(method),
            "sampling": s.decoding(method),
            "chat": {"chat": s.chat, "system": s.system},
            "seed": seed,
        }
    )
    return conditions


def _forms(settings: Settings) -> dict[str, str]:
    """The forms of the weights that were asked for; the usual ones change no answer."""
    forms = {name: getattr(settings, name) for name in ("target_weights", "draft_weights")}
    return {name: form for name, form in forms.items() if form != "auto"}


@dataclass(frozen=True)
class _Run:
    """One pass over the prompts with one method and one seed."""

    settings: Settings
    method: Method
    seed: int
    conditions: Record

    def answer(self, items: Sequence[Item], answers: AnswerFile) -> None:
        """Decode the items in batches and write each answer once it is complete."""
        pair, parts, started = load(self.settings), list[Stats](), time.perf_counter()
        bar = _progress(to_file=answers.path is not None)
        size = BATCHES * self.settings.max_batch_size
        task = bar.add_task("", total=len(items), rate="")
        try:
            with bar, answers:
                for start in range(0, len(items), size):
                    for item, completions in self._answers(pair, items[start : start + size]):
                        seed = line_seed(self.seed, item.index)
                        answers.write(record_of(item, completions, seed, self.conditions))
                        parts += [c.stats for c in completions]
                        so_far = total(parts, time.perf_counter() - started)
                        bar.update(task, advance=1, rate=speed(so_far))
        except KeyboardInterrupt:
            self._print_how_to_resume(answers.num_written, len(items))
            raise typer.Exit(130) from None
        so_far = total(parts, time.perf_counter() - started)
        line = summary(so_far, self.method, self.seed, pair.models.target_weights)
        typer.echo(f"answered {answers.num_written} · {line}", err=True)

    def _answers(
        self, pair: ModelPair, batch: Sequence[Item]
    ) -> Iterator[tuple[Item, list[Completion]]]:
        """Items with the completions of their turns, each once it is finished."""
        found: dict[int, list[Completion]] = {item.index: [] for item in batch}
        options = self.settings.decoding(self.method)
        options["max_batch_size"] = self.settings.max_batch_size
        active = batch
        try:
            for turn in range(max(item.num_turns for item in batch)):
                active = [item for item in active if item.num_turns > turn]
                prompts = [item.prompt([c.text for c in found[item.index]]) for item in active]
                seeds = [line_seed(self.seed, item.index) + turn for item in active]
                for chunk in pair.stream_all(prompts, self.method, seed=seeds, **options):
                    item = active[chunk.index]
                    if chunk.completion is not None:
                        found[item.index].append(chunk.completion)
                        if turn + 1 == item.num_turns:
                            yield item, found[item.index]
        except MtadError as error:
            first, last = active[0].index + 1, active[-1].index + 1
            where = f"{self.settings.prompt_file}, lines {first} to {last}"
            raise type(error)(f"{where}: {error}") from error

    def _print_how_to_resume(self, num_done: int, num_asked: int) -> None:
        message = f"\ninterrupted after {num_done} of {num_asked} answers"
        if self.settings.output is not None:
            message += f"; they are in {self.settings.output}: the same command goes on from there"
        typer.echo(message, err=True)


def _progress(to_file: bool) -> Progress:
    """A bar on stderr, if that is a terminal and nothing else writes to it."""
    console = Console(stderr=True)
    return Progress(
        MofNCompleteColumn(),
        BarColumn(bar_width=20),
        TimeRemainingColumn(),
        TextColumn("{task.fields[rate]}"),
        console=console,
        transient=True,
        disable=not console.is_terminal or not to_file,
    )

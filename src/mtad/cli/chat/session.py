"""A chat with a pair: answers a question, shows it and keeps it. Knows no commands."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import typer
from rich.console import Console

from mtad.api.guard import wants_guard
from mtad.api.pair import ModelPair
from mtad.cli.blocks import BlockPainter
from mtad.cli.chat.conversation import Conversation
from mtad.cli.chat.settings import ChatSettings
from mtad.cli.options import make_method
from mtad.cli.start import new_seed
from mtad.cli.terminal import Shown, summary
from mtad.engine.stats import Stats
from mtad.errors import ContextLengthError
from mtad.model.tokenizer import encode
from mtad.sampling.params import SamplingParams
from mtad.speculative.method import Method


def is_terminal() -> bool:
    """Whether answers go to a terminal, where they can be coloured."""
    return sys.stdout.isatty()


def checked_method(settings: ChatSettings, has_draft: bool = True) -> Method:
    """The method that the settings name, once all of them are known to go together.

    Raises:
        ValueError: they don't.
    """
    method, params = make_method(settings), SamplingParams(**settings.sampling)
    method.check(params)
    if method.drafter == "draft" and not has_draft:
        raise ValueError(f"{method.name} needs a draft model; start the chat with --draft-model")
    wants_guard(method, settings.guard, settings.seed is not None, params.temperature == 0)
    return method


@dataclass
class ChatSession:
    """The pair, the conversation, and the settings of the next answer.

    Attributes:
        pair: answers.
        settings: as the flags and the commands have them.
        method: the one that the settings name.
        colour: whether answers are coloured by origin.
        is_typed: whether someone types, so that Ctrl-C stops an answer and not the chat.
        conversation: what was said.
        stats: one per answer.
    """

    pair: ModelPair
    settings: ChatSettings
    method: Method
    colour: bool
    is_typed: bool = True
    conversation: Conversation = field(default_factory=Conversation)
    stats: list[Stats] = field(default_factory=list)
    _has_legend: bool = False

    def change(self, **changes: Any) -> None:
        """Change settings, all or none.

        Raises:
            ValueError: the new ones are impossible, or don't go together.
        """
        settings = replace(self.settings, **changes)
        self.method = checked_method(settings, self.pair.models.draft is not None)
        self.settings = settings

    def answer(self) -> bool:
        """Answer the waiting question; whether there is an answer.

        What Ctrl-C stops is kept as far as it came.

        Raises:
            ValueError, MtadError: no answer; the question still waits.
        """
        seed, shown = new_seed(self.settings.seed), Shown()
        try:
            self._show(shown, seed)
        except ContextLengthError as error:
            raise ContextLengthError(f"{error}. {self._advice()}") from error
        is_stopped = shown.completion is None
        is_kept = bool(shown.text) or not is_stopped
        if is_kept:
            self.conversation.add_answer(shown.text, is_stopped)
            self.stats.append(shown.stats)
        if is_stopped:
            kept = "it is kept as far as it came" if shown.text else "nothing came of it"
            typer.echo(f"[answer stopped; {kept}; /retry asks again]", err=True)
        facts = (self.method.name, self.method.is_lossless, seed)
        typer.secho(summary(shown.stats, *facts), err=True, dim=True)
        return is_kept

    def _advice(self) -> str:
        """What to do about a full context."""
        return (
            "The question waits: /undo takes it back, and again the turn before; /clear forgets "
            f"all turns; /max-new-tokens N, now {self.settings.max_new_tokens}, asks for a shorter "
            "answer; /retry then asks again"
        )

    def _show(self, shown: Shown, seed: int) -> None:
        """Show the answer as it comes, until its end or Ctrl-C."""
        chunks = self.pair.stream(
            self.conversation.prompt, self.method, seed=seed, **self.settings.decoding
        )
        painter = self._painter()
        with _interrupts() if self.is_typed else nullcontext(lambda: False) as is_interrupted:
            try:
                shown.follow(chunks, painter, is_interrupted)
            except KeyboardInterrupt:
                if not self.is_typed:
                    raise

    def _painter(self) -> BlockPainter | None:
        if not self.colour:
            return None
        ids = encode(self.pair.tokenizer, self.conversation.prompt)
        painter = BlockPainter(self.pair.tokenizer, context=ids)
        if not self._has_legend:
            self._has_legend = True
            Console(stderr=True, highlight=False).print(painter.legend(), soft_wrap=True)
        return painter


@contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed; the iteration in progress ends first, unless pressed again."""
    pressed: list[int] = []

    def note(number: int, _: object) -> None:
        if pressed:
            raise KeyboardInterrupt
        pressed.append(number)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)

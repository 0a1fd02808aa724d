"""A pair in conversation: how the next answer is made, shown and kept. Knows no commands."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import typer
from rich.console import Console

from mtad.api.completion import Chunk
from mtad.api.guard import wants_guard
from mtad.api.pair import ModelPair
from mtad.cli import view
from mtad.cli.blocks import BlockPainter
from mtad.cli.chat.conversation import Conversation
from mtad.cli.chat.settings import ChatSettings
from mtad.cli.generate import new_seed, pieces
from mtad.cli.options import make_method
from mtad.engine.stats import Stats
from mtad.errors import ContextLengthError
from mtad.model.tokenizer import encode
from mtad.sampling.params import SamplingParams
from mtad.speculative.method import Method


def is_terminal() -> bool:
    """Whether answers go to a terminal, where they can be coloured."""
    return sys.stdout.isatty()


def judged(settings: ChatSettings, has_draft: bool = True) -> Method:
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
class Talk:
    """The pair, the conversation, and the settings of the next answer.

    Attributes:
        pair: answers.
        settings: as the flags and the commands have them.
        method: the one that the settings name.
        colour: whether answers are coloured by origin.
        is_typed: whether someone types, so that Ctrl-C stops an answer and not the chat.
        conversation: what was said.
        parts: the statistics of every answer.
    """

    pair: ModelPair
    settings: ChatSettings
    method: Method
    colour: bool
    is_typed: bool = True
    conversation: Conversation = field(default_factory=Conversation)
    parts: list[Stats] = field(default_factory=list)
    _has_legend: bool = False

    def change(self, **changes: Any) -> None:
        """Change settings, all or none.

        Raises:
            ValueError: the new ones are impossible, or don't go together.
        """
        settings = replace(self.settings, **changes)
        self.method = judged(settings, self.pair.models.draft is not None)
        self.settings = settings

    def answer(self) -> bool:
        """Answer the waiting question; whether anything came of it.

        What Ctrl-C stops is kept as far as it came.

        Raises:
            ValueError, MtadError: no answer; the question still waits.
        """
        seed, said = new_seed(self.settings.seed), _Said()
        try:
            chunks = self.pair.stream(
                self.conversation.prompt, self.method, seed=seed, **self.settings.decoding
            )
            stopped = self._show(chunks, said)
        except ContextLengthError as error:
            raise ContextLengthError(f"{error}. {self._way_out()}") from error
        is_kept = not stopped or bool(said.text)
        if is_kept:
            self.conversation.answered(said.text, stopped)
            self.parts.append(said.stats)
        self._report(said, seed, stopped)
        return is_kept

    def _way_out(self) -> str:
        less = f"/max-new-tokens N, now {self.settings.max_new_tokens}, asks for a shorter answer"
        return (
            "The question waits: /undo takes it back, and again the turn before; /clear forgets "
            f"all turns; {less}; /retry then asks again"
        )

    def _show(self, chunks: Iterator[Chunk], said: _Said) -> bool:
        """Show the answer as it comes; whether it was stopped."""
        painter, started = self._painter(), time.perf_counter()
        interrupts = _interrupts() if self.is_typed else nullcontext(lambda: False)
        with interrupts as is_interrupted, view.open_view() as screen:
            try:
                for chunk in chunks:
                    said.take(chunk, time.perf_counter() - started)
                    screen.add(pieces(chunk, painter), view.figures(said.stats))
                    if is_interrupted() and chunk.completion is None:
                        return True
            except KeyboardInterrupt:
                if not self.is_typed:
                    raise
                return True
        return False

    def _painter(self) -> BlockPainter | None:
        if not self.colour:
            return None
        ids = encode(self.pair.tokenizer, self.conversation.prompt)
        painter = BlockPainter(self.pair.tokenizer, context=ids)
        if not self._has_legend:
            self._has_legend = True
            Console(stderr=True, highlight=False).print(painter.legend(), soft_wrap=True)
        return painter

    def _report(self, said: _Said, seed: int, stopped: bool) -> None:
        if stopped:
            kept = "it is kept as far as it came" if said.text else "nothing came of it"
            typer.echo(f"[answer stopped; {kept}; /retry asks again]", err=True)
        facts = (self.method.name, self.method.is_lossless, seed)
        typer.secho(view.summary(said.stats, *facts), err=True, dim=True)


@dataclass
class _Said:
    """What came of an answer so far."""

    text: str = ""
    stats: Stats = field(default_factory=Stats)

    def take(self, chunk: Chunk, seconds: float) -> None:
        """Add a chunk that came after so many seconds."""
        self.text += chunk.text
        if chunk.block:
            self.stats.add(chunk.block)
        self.stats.decode_s = seconds
        if chunk.completion is not None:
            self.stats = chunk.completion.stats


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

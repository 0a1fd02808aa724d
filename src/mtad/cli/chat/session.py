"""A chat with a pair: answers a question, shows it and keeps it. Knows no commands."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import typer

from mtad.api.pair import ModelPair
from mtad.cli.blocks import BlockPainter
from mtad.cli.chat.conversation import Conversation
from mtad.cli.chat.settings import ChatSettings
from mtad.cli.start import check_method, new_seed
from mtad.cli.terminal import Shown, summary
from mtad.engine.stats import Stats
from mtad.errors import ContextLengthError
from mtad.model.tokenizer import encode
from mtad.speculative.method import Method


@dataclass
class ChatSession:
    """The pair, the conversation, and the settings of the next answer.

    Attributes:
        pair: answers.
        settings: all but the method, as the flags and the commands have them.
        method: decodes the next answer.
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

    def change(self, method: Method | None = None, **changes: Any) -> None:
        """Change the method or settings, all or none.

        Raises:
            ValueError: the new ones are impossible, or don't go together.
        """
        method, settings = method or self.method, replace(self.settings, **changes)
        check_method(method, settings)
        self.method, self.settings = method, settings

    def answer(self) -> None:
        """Answer the waiting question; it still waits if Ctrl-C comes before any text.

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
        if shown.text or not is_stopped:
            self.conversation.add_answer(shown.text, is_stopped)
            self.stats.append(shown.stats)
        if is_stopped:
            kept = "it is kept as far as it came" if shown.text else "nothing came of it"
            typer.echo(f"[answer stopped; {kept}; /retry asks again]", err=True)
        weights = self.pair.models.target_weights
        typer.secho(summary(shown.stats, self.method, seed, weights), err=True, dim=True)

    def answer_again(self) -> None:
        """Answer the last question once more; without a new answer the old one stays.

        Raises:
            ValueError, MtadError: there is no question, or no answer.
        """
        before = [*self.conversation.messages]
        self.conversation.ask(self.conversation.undo())
        try:
            self.answer()
        finally:
            if self.conversation.waiting is not None:
                self.conversation.messages = before

    def _advice(self) -> str:
        """What to do about a full context."""
        return (
            "The question waits: /undo takes it back, and again the turn before; /clear forgets "
            f"all turns; /max-new-tokens N, now {self.settings.max_new_tokens}, asks for a shorter "
            "answer; /retry then asks again"
        )

    def _show(self, shown: Shown, seed: int) -> None:
        """Show the answer as it comes, until its end or Ctrl-C."""
        prompt, tokenizer = self.conversation.prompt, self.pair.tokenizer
        options = self.settings.decoding(self.method)
        chunks = self.pair.stream(prompt, self.method, seed=seed, **options)
        painter = None
        if self.colour:
            painter = BlockPainter(tokenizer, context=encode(tokenizer, prompt))
            if not self._has_legend:
                self._has_legend = True
                painter.print_legend()
        with _interrupts() if self.is_typed else nullcontext(lambda: False) as is_interrupted:
            shown.follow(chunks, painter, is_interrupted)


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
    except KeyboardInterrupt:
        pass  # it was pressed again, and the answer ends here
    finally:
        signal.signal(signal.SIGINT, before)

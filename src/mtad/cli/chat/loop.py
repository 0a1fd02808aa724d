"""The lines of a conversation: each is a command to run or a question to answer.

Answers go to stdout, everything else to stderr.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from copy import deepcopy

import typer

from mtad.cli.chat.commands import Quit, run_command
from mtad.cli.chat.conversation import Conversation
from mtad.cli.chat.session import ChatSession, checked_method, is_terminal
from mtad.cli.chat.settings import ChatSettings
from mtad.cli.start import load, system_message
from mtad.errors import MtadError, PromptError


def run(settings: ChatSettings) -> None:
    """Answer line by line until the input ends.

    Raises:
        ValueError: flags that don't go together; checked before anything is loaded.
        MtadError: the models cannot be loaded, or have no chat template.
        typer.Exit: with 1 where lines of a pipe had no answer.
    """
    has_draft = not settings.target_model or bool(settings.draft_model)
    method = checked_method(settings, has_draft)
    if settings.colour and not is_terminal():
        raise ValueError("--colour needs a terminal, and the answers go elsewhere")
    pair = load(settings)
    if not getattr(pair.tokenizer, "chat_template", None):
        raise PromptError("a chat needs a tokenizer with a chat template; use mtad generate")
    conversation = Conversation([dict(message) for message in system_message(settings)])
    colour = is_terminal() if settings.colour is None else settings.colour
    is_typed = sys.stdin.isatty()
    session = ChatSession(pair, settings, method, colour, is_typed, conversation)
    num_failed = _converse(session, _lines(settings, is_typed))
    if num_failed and not is_typed:
        raise typer.Exit(1)


def _lines(settings: ChatSettings, is_typed: bool) -> Iterator[str]:
    """Questions and commands, from the keyboard or from a pipe."""
    if not is_typed:
        return _piped_lines()
    from mtad.cli.chat.keyboard import typed_lines

    return typed_lines(settings.keep_lines)


def _piped_lines() -> Iterator[str]:
    """The lines of stdin, those that end in a backslash joined to the next."""
    parts: list[str] = []
    for raw in sys.stdin.buffer:
        line = raw.decode(errors="surrogateescape").removesuffix("\n").removesuffix("\r")
        parts.append(line.removesuffix("\\"))
        if not line.endswith("\\"):
            yield "\n".join(parts)
            parts = []
    if parts:
        yield "\n".join(parts)


def _converse(session: ChatSession, lines: Iterable[str]) -> int:
    """Answer the lines; how many could not be."""
    num_failed = 0
    for line in lines:
        try:
            _handle(session, line)
        except Quit:
            break
        except KeyboardInterrupt:
            if not session.is_typed:
                raise
            typer.echo("interrupted", err=True)
        except (MtadError, ValueError, OSError) as error:
            num_failed += 1
            typer.secho(f"Error: {error}", fg="red", err=True)
    return num_failed


def _handle(session: ChatSession, line: str) -> None:
    """Run a line's command, or answer its question."""
    if line.startswith("/") and not line.startswith("//"):
        before = deepcopy(session.conversation)
        message, asks = run_command(session, line)
        if message:
            typer.echo(message, err=True)
        if asks:
            _answer_again(session, before)
    elif line.strip():
        _require_utf8(line)
        session.conversation.waiting = line[1:] if line.startswith("//") else line
        session.answer()


def _answer_again(session: ChatSession, before: Conversation) -> None:
    """Answer once more; without a new answer the old one stays."""
    is_kept = False
    try:
        is_kept = session.answer()
    finally:
        if not is_kept:
            session.conversation = before


def _require_utf8(line: str) -> None:
    try:
        line.encode()
    except UnicodeError as error:
        raise PromptError(f"the line is not UTF-8: {error}") from error

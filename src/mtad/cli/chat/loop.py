"""The lines of a conversation: each is a command to run or a question to answer.

Answers go to stdout, everything else to stderr.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

import typer

from mtad.cli.chat.commands import Quit, run_command
from mtad.cli.chat.conversation import Conversation
from mtad.cli.chat.lines import joined, piped_lines, typed_lines
from mtad.cli.chat.session import ChatSession
from mtad.cli.chat.settings import ChatSettings
from mtad.cli.start import checked_method, load, require_utf8, system_message
from mtad.errors import MtadError, PromptError


def run(settings: ChatSettings) -> None:
    """Answer line by line until the input ends.

    Raises:
        ValueError: flags that don't go together; checked before anything is loaded.
        MtadError: the models cannot be loaded, or have no chat template.
        typer.Exit: with 1 where lines of a pipe had no answer.
    """
    method, is_terminal = checked_method(settings), sys.stdout.isatty()
    if settings.colour and not is_terminal:
        raise ValueError("--colour needs a terminal, and the answers go elsewhere")
    pair = load(settings)
    if not getattr(pair.tokenizer, "chat_template", None):
        raise PromptError("a chat needs a tokenizer with a chat template; use mtad generate")
    conversation = Conversation([dict(message) for message in system_message(settings)])
    colour = is_terminal if settings.colour is None else settings.colour
    is_typed = sys.stdin.isatty()
    session = ChatSession(pair, settings, method, colour, is_typed, conversation)
    lines = typed_lines(settings.keep_lines) if is_typed else piped_lines()
    num_failed = _converse(session, joined(lines))
    if num_failed and not is_typed:
        raise typer.Exit(1)


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
        if message := run_command(session, line):
            typer.echo(message, err=True)
    elif line.strip():
        require_utf8(line, "the line")
        session.conversation.ask(line[1:] if line.startswith("//") else line)
        session.answer()

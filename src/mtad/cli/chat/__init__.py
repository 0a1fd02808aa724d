"""`mtad chat`: a conversation in the terminal, or with the lines of a pipe.

Answers go to stdout, everything else to stderr.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from types import ModuleType

import typer

from mtad.cli.chat.commands import Leave, obey
from mtad.cli.chat.conversation import Conversation
from mtad.cli.chat.settings import ChatSettings
from mtad.cli.chat.talk import Talk, is_terminal, judged
from mtad.cli.generate import load, system_message
from mtad.errors import MtadError, PromptError

PROMPT, MORE = "> ", "… "
MAX_LINES = 1000


def run(settings: ChatSettings) -> None:
    """Answer line by line until the input ends.

    Raises:
        ValueError: flags that don't go together; judged before anything is loaded.
        MtadError: the models cannot be loaded, or have no chat template.
        typer.Exit: with 1 where lines of a pipe had no answer.
    """
    method = judged(settings, has_draft=not settings.target_model or bool(settings.draft_model))
    if settings.colour and not is_terminal():
        raise ValueError("--colour needs a terminal, and the answers go elsewhere")
    colour = is_terminal() if settings.colour is None else settings.colour
    pair = load(settings)
    if not getattr(pair.tokenizer, "chat_template", None):
        raise PromptError("a chat needs a tokenizer with a chat template; use mtad generate")
    said = Conversation([dict(message) for message in system_message(settings)])
    is_typed = sys.stdin.isatty()
    talk = Talk(pair, settings, method, colour, is_typed, said)
    with _line_editing(settings.keep_lines) if is_typed else _no_editing():
        num_failed = _converse(talk, _typed() if is_typed else _piped())
    if num_failed and not is_typed:
        raise typer.Exit(1)


def _converse(talk: Talk, lines: Iterator[str]) -> int:
    """Answer the lines; how many could not be."""
    num_failed = 0
    for line in lines:
        try:
            _take(talk, line)
        except Leave:
            break
        except KeyboardInterrupt:
            if not talk.is_typed:
                raise
            typer.echo("interrupted", err=True)
        except (MtadError, ValueError, OSError) as error:
            num_failed += 1
            typer.secho(f"Error: {error}", fg="red", err=True)
    return num_failed


def _take(talk: Talk, line: str) -> None:
    """Do what a line says: a command, or a question."""
    if not line.strip():
        return
    if line.startswith("/") and not line.startswith("//"):
        before = deepcopy(talk.conversation)
        told, asks = obey(talk, line)
        if told:
            typer.echo(told, err=True)
        if asks:
            _ask_again(talk, before)
        return
    _require_utf8(line)
    talk.conversation.waiting = line[1:] if line.startswith("//") else line
    talk.answer()


def _ask_again(talk: Talk, before: Conversation) -> None:
    """Answer once more; where nothing comes of it, the old answer stays."""
    is_kept = False
    try:
        is_kept = talk.answer()
    finally:
        if not is_kept:
            talk.conversation = before


def _require_utf8(line: str) -> None:
    try:
        line.encode()
    except UnicodeError as error:
        raise PromptError(f"the line is not UTF-8: {error}") from error


def _piped() -> Iterator[str]:
    """The lines of stdin, those that end in a backslash joined to the next."""
    parts: list[str] = []
    for raw in sys.stdin.buffer:
        line = raw.decode(errors="surrogateescape").removesuffix("\n").removesuffix("\r")
        if line.endswith("\\"):
            parts.append(line[:-1])
        else:
            yield "\n".join([*parts, line])
            parts = []
    if parts:
        yield "\n".join(parts)


def _typed() -> Iterator[str]:
    """The lines that are typed, until Ctrl-D; Ctrl-C forgets the one being typed."""
    typer.echo("/help shows the commands, Ctrl-D quits", err=True)
    parts: list[str] = []
    while True:
        try:
            line = input(MORE if parts else PROMPT)
        except KeyboardInterrupt:
            typer.echo("", err=True)
            parts = []
            continue
        except EOFError:
            typer.echo("", err=True)
            if parts:
                yield "\n".join(parts)
            return
        if line.endswith("\\"):
            parts.append(line[:-1])
        else:
            yield "\n".join([*parts, line])
            parts = []


@contextmanager
def _no_editing() -> Iterator[None]:
    """Nothing to edit: the lines come from a pipe."""
    yield


@contextmanager
def _line_editing(keep: bool) -> Iterator[None]:
    """Let lines be edited and brought back; over chats only if they are to be kept."""
    try:
        import readline
    except ImportError:  # not on every system; lines are read without editing
        if keep:
            raise ValueError("--keep-lines needs readline, which this Python lacks") from None
        yield
        return
    path = _lines_file() if keep else None
    if path is not None and path.exists():
        readline.read_history_file(path)
    try:
        yield
    finally:
        if path is not None:
            _keep(readline, path)


def _lines_file() -> Path:
    """Where the lines are kept: under the user's state folder."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "mtad" / "chat_lines"


def _keep(readline: ModuleType, path: Path) -> None:
    """Write the lines, for the user's eyes alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    readline.set_history_length(MAX_LINES)
    readline.write_history_file(path)
    path.chmod(0o600)

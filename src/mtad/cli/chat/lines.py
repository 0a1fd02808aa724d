"""The lines of a chat: typed in a terminal, with editing and a history, or read from a pipe."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from prompt_toolkit.history import History

PROMPT, MORE = "> ", "… "


def joined(lines: Iterable[str | None]) -> Iterator[str]:
    """The lines, those that end in a backslash joined to the next; None forgets such a part."""
    parts: list[str] = []
    for line in lines:
        if line is None:
            parts = []
            continue
        parts.append(line.removesuffix("\\"))
        if not line.endswith("\\"):
            yield "\n".join(parts)
            parts = []
    if parts:
        yield "\n".join(parts)


def piped_lines() -> Iterator[str]:
    """The lines of stdin; bytes that are not UTF-8 become surrogates."""
    for line in sys.stdin.buffer:
        yield line.decode(errors="surrogateescape").removesuffix("\n").removesuffix("\r")


def typed_lines(keep: bool) -> Iterator[str | None]:
    """The lines until Ctrl-D, and None for Ctrl-C, which forgets the line being typed.

    The prompt goes to the terminal, also where answers don't.

    Args:
        keep: begin with the lines of earlier chats, and keep these.
    """
    from prompt_toolkit import PromptSession
    from prompt_toolkit.output import create_output

    output = create_output(always_prefer_tty=True)
    history = kept_history() if keep else None
    session: PromptSession[str] = PromptSession(history=history, output=output)
    typer.echo("/help shows the commands, Ctrl-D quits", err=True)
    line: str | None = None
    while True:
        try:
            line = session.prompt(MORE if line and line.endswith("\\") else PROMPT)
        except KeyboardInterrupt:
            line = None
        except EOFError:
            return
        yield line


def kept_history() -> History:
    """The lines of earlier chats, in a file that only the user can read."""
    from prompt_toolkit.history import FileHistory

    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    path = Path(state) / "mtad" / "chat_lines"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.chmod(0o600)
    return FileHistory(path)

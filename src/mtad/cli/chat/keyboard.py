"""Lines typed in a terminal, with editing and a history."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import typer
from prompt_toolkit import PromptSession
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.output import create_output

PROMPT, MORE = "> ", "… "


def typed_lines(keep: bool) -> Iterator[str]:
    """The lines until Ctrl-D, those that end in a backslash joined to the next.

    Ctrl-C forgets the line being typed. The prompt goes to the terminal, also where answers don't.

    Args:
        keep: begin with the lines of earlier chats, and keep these.
    """
    history = kept_history() if keep else InMemoryHistory()
    output = create_output(always_prefer_tty=True)
    session: PromptSession[str] = PromptSession(history=history, output=output)
    typer.echo("/help shows the commands, Ctrl-D quits", err=True)
    parts: list[str] = []
    while True:
        try:
            line = session.prompt(MORE if parts else PROMPT)
        except KeyboardInterrupt:
            parts = []
            continue
        except EOFError:
            break
        parts.append(line.removesuffix("\\"))
        if not line.endswith("\\"):
            yield "\n".join(parts)
            parts = []
    if parts:
        yield "\n".join(parts)


def kept_history() -> History:
    """The lines of earlier chats, in a file that only the user can read."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    path = Path(state) / "mtad" / "chat_lines"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.chmod(0o600)
    return FileHistory(path)

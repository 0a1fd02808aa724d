"""Every flag of `mtad chat`: those of `mtad generate`, without what is for one prompt or a file.

Imports nothing heavy: it is read for `mtad --help`.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from mtad.cli.settings import Settings


@dataclass(frozen=True)
class ChatSettings(Settings):
    """What the user asked of `mtad chat`, and what the commands of the chat change.

    The fields that are not in the constructor are no flags.
    """

    prompt: str | None = field(default="", init=False)
    chat: bool = field(default=True, init=False)
    prompt_file: Path | None = field(default=None, init=False)
    output: Path | None = field(default=None, init=False)
    overwrite: bool = field(default=False, init=False)
    tensor_parallel: bool = field(default=False, init=False)  # its processes share the keyboard
    max_batch_size: int = field(default=1, init=False)
    json: bool = field(default=False, init=False)
    show_blocks: bool = field(default=False, init=False)
    trace: Path | None = field(default=None, init=False)
    trace_laws: bool = field(default=True, init=False)

    colour: Annotated[
        bool | None,
        typer.Option(
            "--colour/--no-colour",
            rich_help_panel="Chat",
            help="Show where every token comes from. Without the flag: yes in a terminal.",
        ),
    ] = None
    keep_lines: Annotated[
        bool,
        typer.Option(
            "--keep-lines",
            rich_help_panel="Chat",
            help="Remember the lines you type for the next chat, in a file of yours.",
        ),
    ] = False

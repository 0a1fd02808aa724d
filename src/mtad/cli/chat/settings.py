"""Every flag of `mtad chat`.

Imports nothing heavy: it is read for `mtad --help`.
"""

from dataclasses import dataclass
from functools import partial
from typing import Annotated

from mtad.cli.flags import flag
from mtad.cli.settings import DecodingSettings

_chat = partial(flag, panel="Chat")


@dataclass(frozen=True)
class ChatSettings(DecodingSettings):
    """What the user asked of `mtad chat`, and what the commands of the chat change."""

    colour: Annotated[
        bool | None,
        _chat(
            "--colour/--no-colour",
            help="Show where every token comes from. Without the flag: yes in a terminal.",
        ),
    ] = None
    keep_lines: Annotated[
        bool,
        _chat(
            "--keep-lines",
            help="Remember the lines you type for the next chat, in a file of yours.",
        ),
    ] = False

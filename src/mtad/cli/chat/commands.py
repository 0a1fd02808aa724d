"""The commands of a chat: lines that begin with a slash and change or show something."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from mtad import methods
from mtad.cli.chat.conversation import STOPPED, Conversation
from mtad.cli.chat.session import ChatSession
from mtad.cli.flags import MethodFlags
from mtad.cli.methods import as_typed
from mtad.cli.options import make_method
from mtad.cli.settings import SAMPLING_FLAGS
from mtad.cli.terminal import percent, progress, qualified
from mtad.core.names import did_you_mean
from mtad.core.schema import options_of
from mtad.engine.stats import total
from mtad.sampling.params import numeric_settings

THRESHOLD = "accept_threshold"
SAMPLING = tuple(name for name in SAMPLING_FLAGS if name != "min_new_tokens")


class Quit(Exception):
    """The user is done."""


class Command(NamedTuple):
    """A command: what may follow its name, what it does, and what does it.

    `run` gets the text after the name and returns the message.
    """

    usage: str
    help: str
    run: Callable[[ChatSession, str], str]


def run_command(session: ChatSession, line: str) -> str:
    """The message of a command.

    Raises:
        ValueError: unknown command or wrong value; nothing has changed.
        MtadError: /retry got no answer.
        Quit: the user is done.
    """
    name, _, rest = line[1:].partition(" ")
    name = {"color": "colour", "exit": "quit"}.get(name, name.replace("_", "-"))
    if name not in COMMANDS:
        known = " ".join(f"/{known}" for known in COMMANDS)
        near = did_you_mean(name, COMMANDS)
        raise ValueError(f"there is no command /{name}{near}; there are {known}")
    command = COMMANDS[name]
    if rest.strip() and not command.usage:
        raise ValueError(f"/{name} takes nothing after it, and {rest.strip()!r} was given")
    if command.usage == "FILE" and not rest.strip():
        raise ValueError(f"/{name} needs the name of a file")
    return command.run(session, rest.strip())


def _method(session: ChatSession, text: str) -> str:
    if text:
        name, *options = text.split()
        session.change(make_method(MethodFlags(method=name, option=options)))
    method = session.method
    options = [f" {name}={as_typed(getattr(method, name))}" for name in options_of(type(method))]
    return f"method {qualified(method, session.pair.models.target_weights)}{''.join(options)}"


def _threshold(session: ChatSession, text: str) -> str:
    option = options_of(type(session.method)).get(THRESHOLD)
    if option is None:
        names = [n for n in methods.names() if THRESHOLD in options_of(methods.find(n))]
        raise ValueError(
            f"{session.method.name} has no {THRESHOLD}; methods that have one: {', '.join(names)}"
        )
    if text:
        changed: dict[str, Any] = {THRESHOLD: option.parsed(text)}
        session.change(replace(session.method, **changed))
    return _method(session, "")


def _setter(name: str) -> Command:
    """The command of a sampling setting."""
    setting = numeric_settings()[name]

    def run(session: ChatSession, text: str) -> str:
        if text:
            session.change(**{name: setting.parsed(text)})
        return f"{name} {getattr(session.settings, name)}"

    return Command("[VALUE]", f"Set {name}, or show it.", run)


def _seed(session: ChatSession, text: str) -> str:
    if text:
        session.change(seed=None if text == "random" else numeric_settings()["seed"].parsed(text))
    seed = session.settings.seed
    return "seed random" if seed is None else f"seed {seed}, of every answer"


def _options(session: ChatSession, _: str) -> str:
    chosen = session.settings.sampling | {"stop": session.settings.stop or []}
    sampling = " ".join(f"{name}={value}" for name, value in chosen.items())
    shown = _method(session, ""), f"sampling {sampling}", _seed(session, ""), _colour(session, "")
    return "\n".join(shown)


def _system(session: ChatSession, text: str) -> str:
    before = session.conversation.system
    session.conversation.set_system(text)
    if text:
        return "the system message is set"
    return "there is no system message" + (f"; it was: {before}" if before else "")


def _history(session: ChatSession, _: str) -> str:
    lines = []
    for message in session.conversation.messages:
        mark = " [stopped]" if message.get(STOPPED) else ""
        lines.append(f"{message['role']}: {message['content']}{mark}")
    if session.conversation.waiting is not None:
        lines[-1] += " [no answer yet]"
    return "\n".join(lines) or "nothing was said yet"


def _undo(session: ChatSession, _: str) -> str:
    return f"taken back: {session.conversation.undo()}"


def _retry(session: ChatSession, _: str) -> str:
    session.answer_again()
    return ""


def _clear(session: ChatSession, _: str) -> str:
    has_system = session.conversation.system is not None
    del session.conversation.messages[has_system:]
    return "all turns are forgotten" + "; the system message stays" * has_system


def _save(session: ChatSession, text: str) -> str:
    session.conversation.save(Path(text).expanduser())
    return f"saved to {text}"


def _load(session: ChatSession, text: str) -> str:
    if session.conversation.turns:
        raise ValueError("/load begins another conversation; /save this one, then /clear it")
    loaded = session.conversation = Conversation.load(Path(text).expanduser())
    if loaded.waiting is None:
        return f"{len(loaded.messages)} messages from {text}"
    known = f"{len(loaded.messages) - 1} messages from {text}"
    return f"{known}; its last question waits: /retry asks it"


def _colour(session: ChatSession, text: str) -> str:
    if text not in ("", "on", "off"):
        raise ValueError(f"colour is {text!r}; it must be on or off")
    if text == "on" and not sys.stdout.isatty():
        raise ValueError("colour on needs a terminal, and the answers go elsewhere")
    session.colour = text == "on" if text else session.colour
    return f"colour {'on' if session.colour else 'off'}"


def _stats(session: ChatSession, _: str) -> str:
    so_far, count = total(session.stats), len(session.stats)
    shown = f"{count} answer{'s' * (count != 1)} · {progress(so_far)}"
    shown += f" · draft acceptance rate {percent(so_far.draft_acceptance_rate)}"
    rates = " ".join(map(percent, so_far.acceptance_rate_per_position))
    return shown + (f"\naccepted by position: {rates}" if rates else "")


def _help(session: ChatSession, _: str) -> str:
    heads = {f"/{name} {command.usage}": command.help for name, command in COMMANDS.items()}
    width = max(map(len, heads))
    lines = [f"{head:{width}}  {text}" for head, text in heads.items()]
    return "\n".join([*lines, "", *KEYS])


def _quit(session: ChatSession, _: str) -> str:
    raise Quit


KEYS = (
    "A line that ends in \\ goes on in the next one; // at its beginning is a plain slash.",
    "Ctrl-C stops an answer, and forgets the line being typed; Ctrl-D quits.",
)

COMMANDS = {
    "method": Command("[NAME [OPTION=VALUE …]]", "Decode with this method, or show it.", _method),
    "threshold": Command("[VALUE]", "Set the method's accept_threshold, or show it.", _threshold),
    "options": Command("", "Show the method, the sampling settings and the seed.", _options),
    **{name.replace("_", "-"): _setter(name) for name in SAMPLING},
    "seed": Command("[N|random]", "Set the seed of every answer, or show it.", _seed),
    "system": Command("[TEXT]", "Set the system message; without a text there is none.", _system),
    "history": Command("", "Show the conversation.", _history),
    "undo": Command("", "Take the last question and its answer back.", _undo),
    "retry": Command("", "Ask the last question again.", _retry),
    "clear": Command("", "Forget all but the system message.", _clear),
    "save": Command("FILE", "Write the conversation as JSON.", _save),
    "load": Command("FILE", "Go on with a conversation that was saved.", _load),
    "colour": Command("[on|off]", "Colour answers by where the tokens come from.", _colour),
    "stats": Command("", "Show the statistics of all answers together.", _stats),
    "help": Command("", "Show this list.", _help),
    "quit": Command("", "End the chat.", _quit),
}

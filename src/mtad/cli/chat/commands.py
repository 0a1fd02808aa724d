"""The commands of a chat: lines that begin with a slash and change or show something."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtad import methods
from mtad.cli import view
from mtad.cli.chat.conversation import STOPPED, Conversation
from mtad.cli.chat.talk import Talk, is_terminal
from mtad.cli.options import parse
from mtad.cli.settings import SAMPLING_FLAGS
from mtad.core.options import option_types
from mtad.engine.stats import total
from mtad.methods import describe
from mtad.sampling.params import SamplingParams

THRESHOLD = "accept_threshold"
SAMPLING = tuple(name for name in SAMPLING_FLAGS if name != "min_new_tokens")


class Leave(Exception):
    """The user is done."""


@dataclass(frozen=True)
class Command:
    """A command.

    Attributes:
        usage: how it is typed, after its name.
        meaning: what it does.
        run: does it, given what stands after the name; what to tell the user.
        asks: whether the waiting question is to be answered then.
    """

    usage: str
    meaning: str
    run: Callable[[Talk, str], str]
    asks: bool = False


def obey(talk: Talk, line: str) -> tuple[str, bool]:
    """What a command tells the user, and whether the waiting question is to be answered.

    Raises:
        ValueError: unknown command or wrong value; nothing has changed.
        Leave: the user is done.
    """
    name, _, rest = line[1:].partition(" ")
    name = {"color": "colour", "exit": "quit"}.get(name, name.replace("_", "-"))
    if name not in COMMANDS:
        known = " ".join(f"/{known}" for known in COMMANDS)
        raise ValueError(f"there is no command /{name}; there are {known}")
    command = COMMANDS[name]
    if rest.strip() and not command.usage:
        raise ValueError(f"/{name} takes nothing after it, and {rest.strip()!r} was given")
    return command.run(talk, rest.strip()), command.asks


def _method(talk: Talk, text: str) -> str:
    name, *options = text.split() or [""]
    if name:
        fresh = dict.fromkeys(("config", "num_draft_tokens", "beam_width", THRESHOLD, "k_config"))
        talk.change(method=name, option=options, **fresh)
    return _about_method(talk)


def _about_method(talk: Talk) -> str:
    facts = describe(talk.method)
    options = "".join(f" {name}={_spelled(value)}" for name, value in facts["options"].items())
    return f"method {facts['name']} ({'lossless' if facts['lossless'] else 'lossy'}){options}"


def _spelled(value: Any) -> str:
    """A value as it is typed after NAME=."""
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _threshold(talk: Talk, text: str) -> str:
    if THRESHOLD not in option_types(type(talk.method)):
        names = [n for n in methods.names() if THRESHOLD in option_types(methods.find(n))]
        raise ValueError(
            f"{talk.method.name} has no {THRESHOLD}; methods that have one: {', '.join(names)}"
        )
    if text:
        kept = [o for o in talk.settings.option or () if _option(o) != THRESHOLD]
        talk.change(option=kept, accept_threshold=text)
    return _about_method(talk)


def _option(assignment: str) -> str:
    return assignment.partition("=")[0].strip().replace("-", "_")


def _setter(name: str) -> Command:
    """The command of a sampling setting."""
    kind = option_types(SamplingParams)[name]

    def run(talk: Talk, text: str) -> str:
        if text:
            talk.change(**{name: parse(text, kind, name)})
        return f"{name} {getattr(talk.settings, name)}"

    return Command("[VALUE]", f"Set {name}, or show it.", run)


def _seed(talk: Talk, text: str) -> str:
    if text:
        talk.change(seed=None if text == "random" else parse(text, int, "seed"))
    seed = talk.settings.seed
    return "seed random" if seed is None else f"seed {seed}, of every answer"


def _options(talk: Talk, _: str) -> str:
    chosen = talk.settings.sampling | {"stop": talk.settings.stop or []}
    sampling = " ".join(f"{name}={value}" for name, value in chosen.items())
    return "\n".join(
        [_about_method(talk), f"sampling {sampling}", _seed(talk, ""), _colour_of(talk)]
    )


def _system(talk: Talk, text: str) -> str:
    before = talk.conversation.system
    talk.conversation.begin_with(text)
    if text:
        return "the system message is set"
    return "there is no system message" + (f"; it was: {before}" if before else "")


def _history(talk: Talk, _: str) -> str:
    lines = []
    for message in talk.conversation.messages:
        mark = " [stopped]" if message.get(STOPPED) else ""
        lines.append(f"{message['role']}: {message['content']}{mark}")
    if talk.conversation.waiting is not None:
        lines.append(f"user: {talk.conversation.waiting} [no answer yet]")
    return "\n".join(lines) or "nothing was said yet"


def _undo(talk: Talk, _: str) -> str:
    return f"taken back: {talk.conversation.undo()}"


def _retry(talk: Talk, _: str) -> str:
    talk.conversation.again()
    return ""


def _clear(talk: Talk, _: str) -> str:
    talk.conversation.clear()
    return "all turns are forgotten" + (
        "; the system message stays" * bool(talk.conversation.system)
    )


def _save(talk: Talk, text: str) -> str:
    talk.conversation.save(_path("save", text))
    return f"saved to {text}"


def _load(talk: Talk, text: str) -> str:
    if talk.conversation.turns or talk.conversation.waiting is not None:
        raise ValueError("/load begins another conversation; /save this one, then /clear it")
    talk.conversation = Conversation.load(_path("load", text))
    waits = "; its last question waits: /retry asks it" * (talk.conversation.waiting is not None)
    return f"{len(talk.conversation.messages)} messages from {text}{waits}"


def _path(command: str, text: str) -> Path:
    if not text:
        raise ValueError(f"/{command} needs the name of a file")
    return Path(text).expanduser()


def _colour(talk: Talk, text: str) -> str:
    if text and text not in ("on", "off"):
        raise ValueError(f"colour is {text!r}; it must be on or off")
    if text == "on" and not is_terminal():
        raise ValueError("colour on needs a terminal, and the answers go elsewhere")
    talk.colour = text == "on" if text else talk.colour
    return _colour_of(talk)


def _colour_of(talk: Talk) -> str:
    return f"colour {'on' if talk.colour else 'off'}"


def _stats(talk: Talk, _: str) -> str:
    so_far, number = total(talk.parts), len(talk.parts)
    facts = [
        f"{number} answer{'s' * (number != 1)}",
        view.figures(so_far),
        f"draft acceptance rate {_percent(so_far.draft_acceptance_rate)}",
    ]
    rates = " ".join(map(_percent, so_far.acceptance_rate_per_position))
    return " · ".join(facts) + (f"\naccepted by position: {rates}" if rates else "")


def _percent(rate: float | None) -> str:
    return "–" if rate is None else f"{rate:.1%}"


def _help(talk: Talk, _: str) -> str:
    heads = {f"/{name} {command.usage}": command.meaning for name, command in COMMANDS.items()}
    width = max(map(len, heads))
    lines = [f"{head:{width}}  {meaning}" for head, meaning in heads.items()]
    return "\n".join([*lines, "", *KEYS])


def _quit(talk: Talk, _: str) -> str:
    raise Leave


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
    "retry": Command("", "Ask the last question again.", _retry, asks=True),
    "clear": Command("", "Forget all but the system message.", _clear),
    "save": Command("FILE", "Write the conversation as JSON.", _save),
    "load": Command("FILE", "Go on with a conversation that was saved.", _load),
    "colour": Command("[on|off]", "Colour answers by where the tokens come from.", _colour),
    "stats": Command("", "Show the figures of all answers together.", _stats),
    "help": Command("", "Show this list.", _help),
    "quit": Command("", "End the chat.", _quit),
}

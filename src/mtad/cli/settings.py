"""The flags of `mtad generate`, and those that `mtad chat` shares, as fields of dataclasses.

Imports nothing heavy: it is read for `mtad --help`.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mtad.cli.flags import DebugFlag, MethodFlags, ModelFlags, flag, flag_group, spelled
from mtad.grammar.grammar import Grammar
from mtad.sampling.params import numeric_settings

if TYPE_CHECKING:
    from mtad.speculative.method import Method

_sampling = partial(flag, panel="Sampling")
_form = partial(flag, panel="Form of the text")
_files = partial(flag, panel="Many prompts")
_output = partial(flag, panel="Output")

_NUMBERS = {name: option for name, option in numeric_settings().items() if name != "seed"}
SAMPLING_FLAGS = tuple(_NUMBERS)
"""The sampling settings that have a flag each, made from their definition."""

FORMS: dict[str, Callable[[Any], Grammar]] = {
    "json_schema": Grammar.json,
    "regex": Grammar.regex,
    "choice": Grammar.choice,
    "grammar": Grammar.lark,
}
"""The flags that say which form a text must have, one of which may be given."""

SamplingFlags: Any = flag_group("SamplingFlags", {"Sampling": _NUMBERS.values()})


@dataclass(frozen=True)
class DecodingSettings(DebugFlag, SamplingFlags, MethodFlags, ModelFlags):  # type: ignore[misc]
    """How to decode, for every command that does; the help texts say what each field means."""

    system: Annotated[str | None, typer.Option(help="System message of the chat.")] = None
    guard: Annotated[
        bool | None,
        flag(
            "--guard/--no-guard",
            panel="Speed",
            help="Draft fewer tokens where that is faster, or none. Without the flag only where "
            "the text's distribution and what a given --seed yields stay the same.",
        ),
    ] = None

    logit_bias: Annotated[
        list[str] | None,
        _sampling(metavar="ID=VALUE", help="Added to the logit of a token; may be repeated."),
    ] = None
    suppress_token: Annotated[
        list[int] | None,
        _sampling(metavar="ID", help="A token that is never produced; may be repeated."),
    ] = None
    stop: Annotated[
        list[str] | None,
        _sampling(metavar="TEXT", help="The text ends before this string; may be repeated."),
    ] = None
    json_schema: Annotated[
        Path | None,
        _form(exists=True, dir_okay=False, help="JSON of the schema in this file."),
    ] = None
    regex: Annotated[
        str | None, _form(metavar="PATTERN", help="A text that matches it, without look-around.")
    ] = None
    choice: Annotated[
        list[str] | None, _form(metavar="TEXT", help="One of these texts; may be repeated.")
    ] = None
    grammar: Annotated[
        Path | None,
        _form(
            exists=True, dir_okay=False, help="A text of the grammar in this file: Lark or GBNF."
        ),
    ] = None
    ignore_eos: Annotated[bool, _sampling("--ignore-eos", help="Go on after an EOS token.")] = False
    seed: Annotated[int | None, _sampling(help="Random if not given; it is always shown.")] = None

    def __post_init__(self) -> None:
        """Refuse flags that don't go together, so that none is silently ignored."""
        self.require_one_pair()
        for is_fine, message in self._rules():
            if not is_fine:
                raise ValueError(message)
        _ = self.form  # what is none is refused here, before anything is loaded

    def _rules(self) -> list[tuple[Any, str]]:
        """What has to be true, each with what is said where it is not."""
        return [
            *((False, f"{spelled(name)} needs {spelled(other)}") for name, other in self.missing()),
            (all(self.stop or ()), "--stop is empty; give at least one character"),
            (len(self._forms) <= 1, f"give one of {' and '.join(map(spelled, self._forms))}"),
        ]

    @property
    def _forms(self) -> list[str]:
        """The fields that say which form the text has."""
        return [name for name in FORMS if getattr(self, name)]

    @cached_property
    def form(self) -> Grammar | None:
        """The form that the text must have.

        Raises:
            ValueError: it is none, or its file is no text.
        """
        for name in self._forms:
            given = getattr(self, name)
            place = f"{spelled(name)} {given}" if isinstance(given, Path) else spelled(name)
            try:
                is_file = isinstance(given, Path)
                return FORMS[name](given.read_text(encoding="utf-8") if is_file else given)
            except ValueError as error:
                raise ValueError(f"{place}: {error}") from error
        return None

    @property
    def sampling(self) -> dict[str, Any]:
        """Fields of `SamplingParams`."""
        chosen: dict[str, Any] = {name: getattr(self, name) for name in SAMPLING_FLAGS}
        if self.logit_bias:
            chosen["logit_bias"] = dict(map(_bias, self.logit_bias))
        if self.suppress_token:
            chosen["suppress_tokens"] = tuple(self.suppress_token)
        return chosen

    def decoding(self, method: "Method") -> dict[str, Any]:
        """Arguments of `ModelPair.generate` beyond prompts, method and seed."""
        options = self.sampling | {"stop": self.stop or [], "ignore_eos": self.ignore_eos}
        if self.form is not None:
            options["grammar"] = self.form
        guard = self._guard(method)
        return options if guard is None else options | {"guard": guard}

    def _guard(self, method: "Method") -> bool | None:
        """The flag; without it, yes where no seed was given and the text's distribution stays.

        Later a seed is drawn, which is not a given one.
        """
        if self.guard is not None or self.seed is not None:
            return self.guard
        from mtad.api.guard import wants_guard

        return wants_guard(method, None, has_seed=False, is_greedy=False) or None


@dataclass(frozen=True)
class Settings(DecodingSettings):
    """What the user asked of `mtad generate`; the help texts say what each field means."""

    prompt: Annotated[
        str | None,
        typer.Argument(
            help='The prompt; "-", or none where stdin is a pipe or a file, reads it from stdin '
            "(a last newline is dropped)."
        ),
    ] = None
    chat: Annotated[
        bool,
        typer.Option("--chat", help="Send the prompt as a user message through the chat template."),
    ] = False
    tensor_parallel: Annotated[
        bool,
        flag(
            "--tensor-parallel",
            panel="Models",
            help="Spreads the target over torchrun's processes.",
        ),
    ] = False

    prompt_file: Annotated[
        Path | None,
        _files(
            exists=True,
            dir_okay=False,
            help='JSON lines: {"prompt": "…"}, {"messages": […]}, {"turns": […]} or a string.',
        ),
    ] = None
    output: Annotated[
        Path | None,
        _files(dir_okay=False, help="Where the answers go; answers already there are kept."),
    ] = None
    overwrite: Annotated[bool, _files("--overwrite", help="Begin the output anew.")] = False
    max_batch_size: Annotated[int, _files(min=1, help="Prompts decoded at once.")] = 16

    json: Annotated[bool, _output("--json", help="Print one JSON object.")] = False
    show_blocks: Annotated[
        bool, _output("--show-blocks", help="Show where every token comes from.")
    ] = False
    trace: Annotated[
        Path | None,
        _output(dir_okay=False, help="Append every iteration to this file, for `mtad replay`."),
    ] = None
    trace_laws: Annotated[
        bool,
        _output(help="Keep all logits in the trace, so that every rule can judge it again."),
    ] = True

    @property
    def reads_stdin(self) -> bool:
        """Whether the prompt comes from stdin: said so, or there is no other and no terminal."""
        if self.prompt is not None or self.prompt_file is not None:
            return self.prompt == "-" and self.prompt_file is None
        return sys.stdin is not None and not sys.stdin.isatty()

    def _rules(self) -> list[tuple[Any, str]]:
        file, chat = self.prompt_file is not None, self.chat
        shared = self.reads_stdin or self.output or self.trace
        return [
            (
                not (file and self.prompt is not None),
                "both a PROMPT and --prompt-file were given; leave one out",
            ),
            (
                file or self.prompt is not None or self.reads_stdin,
                "there is no prompt; give a PROMPT or --prompt-file, or send the prompt through a "
                "pipe: echo 'Hello!' | mtad generate",
            ),
            (file or self.output is None, "--output goes with --prompt-file; use > for one prompt"),
            (self.output or not self.overwrite, "--overwrite needs --output"),
            (file or chat or self.system is None, "--system needs --chat"),
            (not (file and self.show_blocks), "--show-blocks is for a single PROMPT"),
            (not (file and self.trace), "--trace is for a single PROMPT"),
            (self.trace or self.trace_laws, "--no-trace-laws needs --trace"),
            (
                not (self.tensor_parallel and shared),
                "--tensor-parallel goes without a prompt from stdin, --output and --trace, which "
                "all its processes would read or write; give a PROMPT or --prompt-file, and write "
                "with >",
            ),
            *super()._rules(),
        ]

    def _guard(self, method: "Method") -> bool | None:
        """As for one text; the answers of a file have seeds to go on from, and those count."""
        if self.prompt_file is not None or self.tensor_parallel:
            return self.guard
        return super()._guard(method)

    @property
    def placement(self) -> dict[str, Any]:
        """Options of `load_models`."""
        plan = {"tp_plan": "auto"} if self.tensor_parallel else {}
        return {**super().placement, **plan}


def _bias(text: str) -> tuple[int, float]:
    token, _, value = text.partition("=")
    try:
        return int(token), float(value)
    except ValueError:
        raise ValueError(
            f"--logit-bias is {text!r}; it must be ID=VALUE, such as 17=-2.5"
        ) from None

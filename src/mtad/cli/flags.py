"""Groups of flags that several commands share, as fields of frozen dataclasses.

Imports nothing heavy: it is read for `mtad --help`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from inspect import Signature, signature
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast, get_type_hints

import typer

DEBUG = "mtad.debug"
"""Where the click context keeps whether tracebacks are wanted."""

T = TypeVar("T")
Dtype = Literal["auto", "bfloat16", "float16", "float32", "float64"]
_PANELS = (
    "Server", "Limits", "Models", "Method", "Speed", "Sampling", "Many prompts", "Output",
    "Logs and traces", "Chat", "Ray",
)  # fmt: skip
"""Panels of `--help` in their order; flags in none come before, those in another after."""


def flag(*names: str, panel: str, **options: Any) -> Any:
    """A flag in a panel of `--help`."""
    return typer.Option(*names, rich_help_panel=panel, **options)


def _models(*names: str, **options: Any) -> Any:
    return flag(*names, panel="Models", **options)


def _method(*names: str, **options: Any) -> Any:
    return flag(*names, panel="Method", **options)


def _remember_debug(ctx: Any, wanted: bool) -> bool:
    ctx.meta[DEBUG] = wanted
    return wanted


SHORT_FLAGS = ("num_draft_tokens", "beam_width", "accept_threshold", "k_config")
"""Options of methods that have a flag of their own."""


@dataclass(frozen=True)
class ModelFlags:
    """Which models, and where they are."""

    target_model: Annotated[
        str | None, _models(help="Folder or hub name; without it the embedded pair is used.")
    ] = None
    draft_model: Annotated[str | None, _models(help="Folder or hub name.")] = None
    dtype: Annotated[Dtype, _models(help="Of the weights; auto: as in the checkpoint.")] = "auto"
    draft_dtype: Annotated[Dtype | None, _models(help="The draft's, if another.")] = None
    device: Annotated[str, _models(help="auto, cpu, cuda, cuda:1, …")] = "auto"
    draft_device: Annotated[str | None, _models(help="The draft's, if another.")] = None
    device_map: Annotated[
        str | None, _models(help="Spreads the target over devices (needs accelerate): auto, …")
    ] = None
    trust_vocabulary: Annotated[
        bool, _models("--trust-vocabulary", help="Don't compare the two tokenizers.")
    ] = False


@dataclass(frozen=True)
class MethodFlags:
    """How to decode; each command says what its file holds."""

    config: Path | None = None

    method: Annotated[
        str, _method(help="A name that `mtad methods` lists, or the module of one of yours.")
    ] = "mtad"
    option: Annotated[
        list[str] | None,
        _method("--option", "-o", metavar="NAME=VALUE", help="Any option of the method."),
    ] = None
    num_draft_tokens: Annotated[
        str | None,
        _method(
            "--num-draft-tokens",
            "--num-speculative-tokens",
            metavar="INTEGER",
            help="Short for -o num_draft_tokens=…; also --num-speculative-tokens.",
        ),
    ] = None
    beam_width: Annotated[
        str | None, _method(metavar="INTEGER", help="Short for -o beam_width=…")
    ] = None
    accept_threshold: Annotated[
        str | None,
        _method(
            "--accept-threshold",
            "--accept-thres",
            metavar="FLOAT",
            help="Short for -o accept_threshold=…; also --accept-thres.",
        ),
    ] = None
    k_config: Annotated[
        str | None, _method(metavar="INTEGER,…", help="Short for -o k_config=…, such as 4,2,2.")
    ] = None


@dataclass(frozen=True)
class DebugFlag:
    """Whether errors show where they come from."""

    debug: Annotated[
        bool,
        flag(
            "--debug",
            panel="Output",
            callback=_remember_debug,
            is_eager=True,
            help="Show tracebacks.",
        ),
    ] = False


def flags_of(cls: type[T]) -> Callable[[Callable[[T], None]], Callable[..., None]]:
    """A decorator: a function of a dataclass of flags as a command with one parameter per field."""

    def wrap(command: Callable[[T], None]) -> Callable[..., None]:
        def with_flags(**values: Any) -> None:
            command(cls(**values))

        hints = get_type_hints(cls, include_extras=True)
        parameters = sorted(signature(cls).parameters.values(), key=lambda p: _place(hints[p.name]))
        wrapped = cast(Any, with_flags)
        wrapped.__name__, wrapped.__doc__ = command.__name__, command.__doc__
        wrapped.__signature__ = Signature(parameters)
        wrapped.__annotations__ = hints
        return with_flags

    return wrap


def _place(hint: Any) -> int:
    """The number of a flag's panel."""
    [info] = getattr(hint, "__metadata__", [None])
    panel = getattr(info, "rich_help_panel", None)
    if panel is None:
        return 0
    return 1 + (_PANELS.index(panel) if panel in _PANELS else len(_PANELS))

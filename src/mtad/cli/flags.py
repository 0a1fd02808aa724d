"""Groups of flags that several commands share, as fields of frozen dataclasses.

Imports nothing heavy: it is read for `mtad --help`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, make_dataclass
from functools import partial
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar, cast, get_args, get_origin, get_type_hints

import typer

from mtad.core.names import did_you_mean
from mtad.core.options import choices, doc_of
from mtad.core.schema import Option, options_of
from mtad.model.settings import ModelSettings

DEBUG = "mtad.debug"
"""Where the click context keeps whether tracebacks are wanted."""

T = TypeVar("T")
_PANELS = (
    "Server", "Limits", "Models", "Method", "Tests", "Speed", "Sampling", "Many prompts", "Output",
    "Logs and traces", "Chat", "Ray", "Draft", "Answers",
)  # fmt: skip
"""Panels of `--help` in their order; flags in none come before, those in another after."""


def flag(*names: str, panel: str, **options: Any) -> Any:
    """A flag in a panel of `--help`."""
    return typer.Option(*names, rich_help_panel=panel, **options)


_method = partial(flag, panel="Method")


def spelled(name: str) -> str:
    """The flag of a setting."""
    return f"--{name.replace('_', '-')}"


def flag_of(option: Option, panel: str) -> tuple[str, Any, Any]:
    """The flag of a setting, made from its definition, as a field of a dataclass."""
    doc, names = doc_of(option.kind), choices(option.kind)
    kinds = (option.type, *get_args(option.type))
    kind = list[str] if any(get_origin(one) is tuple for one in kinds) else option.type
    info = flag(
        *([doc.flag] if doc.flag else []),
        panel=panel,
        help=option.help,
        metavar=doc.metavar or (f"<{'|'.join(names)}>" if names else None),
        dir_okay=option.type not in (Path, Path | None),
        parser=one_of(names) if names else None,
    )
    return option.name, Annotated[(str | None) if names else kind, info], option.default


def one_of(names: Sequence[str]) -> Callable[[str], str]:
    """What reads a flag that takes one of these names, and nothing else."""

    def name(text: str) -> str:
        if text not in names:
            near = did_you_mean(text, names)
            raise typer.BadParameter(f"{text!r} is not one of {', '.join(names)}{near}.")
        return text

    return name


def flag_group(name: str, panels: Mapping[str, Iterable[Option]], base: type = object) -> Any:
    """A frozen dataclass of a flag per setting, by the panel of `--help` that shows it."""
    made = [flag_of(option, panel) for panel, options in panels.items() for option in options]
    return make_dataclass(name, made, bases=(base,), frozen=True)


def config_flag(read: Callable[[Path], Mapping[str, Any]], panel: str, content: str) -> Any:
    """The flag of a TOML file whose values become the defaults of the flags.

    Args:
        read: returns the values by the flags' names; `method` with its options.
        panel: of `--help`.
        content: what is in the file, for `--help`.
    """

    def take(ctx: Any, path: Path | None) -> Path | None:
        if path is not None:
            from mtad import methods

            given = dict(read(path))
            if "method" in given:
                given["method"] = methods.name_for(type(given["method"]))
            ctx.default_map = given
        return path

    return flag(
        panel=panel,
        exists=True,
        dir_okay=False,
        callback=take,
        is_eager=True,
        help=f"TOML file{content}. Flags win over it; a --method other than the file's drops its "
        "options.",
    )


def _remember_debug(ctx: Any, wanted: bool) -> bool:
    ctx.meta[DEBUG] = wanted
    return wanted


ModelFlags: Any = flag_group(
    "ModelFlags", {"Models": options_of(ModelSettings).values()}, ModelSettings
)


def _read_config(path: Path) -> Mapping[str, Any]:
    from mtad.api.options import read_config

    config = read_config(path)
    return {**config.sampling, "method": config.method}


SHORT_FLAGS = ("num_draft_tokens", "beam_width", "accept_threshold", "k_config")
"""Options of methods that have a flag of their own."""


def _short(name: str, metavar: str, end: str = "", alias: str = "") -> Any:
    """The flag of an option of methods."""
    names = (spelled(name), alias) if alias else ()
    end = f"; also {alias}." if alias else end
    return _method(*names, metavar=metavar, help=f"Short for -o {name}=…{end}")


@dataclass(frozen=True)
class MethodFlags:
    """How to decode.

    Attributes:
        read: returns the values in the file, as `config_flag` takes it.
    """

    read: ClassVar = staticmethod(_read_config)
    config: Annotated[
        Path | None,
        config_flag(_read_config, "Method", ": method, and the tables options and sampling"),
    ] = None

    method: Annotated[
        str, _method(help="A name that `mtad methods` lists, or the module of one of yours.")
    ] = "mtad"
    option: Annotated[
        list[str] | None,
        _method("--option", "-o", metavar="NAME=VALUE", help="Any option of the method."),
    ] = None
    num_draft_tokens: Annotated[
        str | None, _short("num_draft_tokens", "INTEGER", alias="--num-speculative-tokens")
    ] = None
    beam_width: Annotated[str | None, _short("beam_width", "INTEGER")] = None
    accept_threshold: Annotated[
        str | None, _short("accept_threshold", "FLOAT", alias="--accept-thres")
    ] = None
    k_config: Annotated[str | None, _short("k_config", "INTEGER,…", ", such as 4,2,2.")] = None


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


@dataclass(frozen=True, kw_only=True)
class ConvertFlags(DebugFlag):
    """What `mtad convert` reads and writes."""

    file: Annotated[Path, typer.Argument(help="A GGUF file, or a folder with one.")]
    folder: Annotated[Path, typer.Argument(help="Where the model goes.")]
    dtype: Annotated[
        str, typer.Option(help="Of the weights; auto: the file's, bfloat16 for quantised ones.")
    ] = "auto"
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the model that is in the folder.")
    ] = False


def flags_of(cls: type[T]) -> Callable[[Callable[[T], None]], Callable[..., None]]:
    """A decorator: a function of a dataclass of flags as a command with one parameter per field."""

    def wrap(command: Callable[[T], None]) -> Callable[..., None]:
        def with_flags(**values: Any) -> None:
            command(cls(**values))

        hints = get_type_hints(cls, include_extras=True)
        fields = sorted(signature(cls).parameters.values(), key=lambda p: _place(hints[p.name]))
        parameters = [
            field.replace(kind=Parameter.KEYWORD_ONLY, annotation=hints[field.name])
            for field in fields
        ]
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

"""Every flag of `mtad serve`, made from the server's settings, and what the command does.

Imports nothing heavy: it is read for `mtad --help`.
"""

from dataclasses import dataclass, fields, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from mtad.cli.flags import DebugFlag, MethodFlags, ModelFlags, flag
from mtad.cli.fleet import RayFlags
from mtad.core.options import option_types
from mtad.errors import MtadError
from mtad.server.settings import ServerSettings, key_of, keys_of, read_settings

if TYPE_CHECKING:
    from mtad.core.schema import Option
    from mtad.speculative.method import Method

_LOGS = ("log_format", "log_prompts", "trace", "allow_trace")
_FILES = {"api_key_file": {"exists": True, "dir_okay": False}, "trace": {"dir_okay": False}}
_OWN = keys_of("server") | keys_of("limits")
FLAGS = {name: key_of(option).flag or name for name, option in _OWN.items()}
"""The settings with a flag of the server, and its name: a list has a flag for one entry."""


def _flag(option: "Option", kind: Any) -> tuple[str, Any, Any]:
    """The flag of a setting, as a field of a dataclass."""
    key = key_of(option)
    panel = "Logs and traces" if option.name in _LOGS else key.section.capitalize()
    more: dict[str, Any] = {"metavar": key.metavar} if key.metavar else {}
    more |= _FILES.get(option.name, {})
    info = flag(panel=panel, help=option.help, **more)
    if kind == tuple[str, ...]:
        return FLAGS[option.name], Annotated[list[str] | None, info], None
    return option.name, Annotated[kind, info], option.default


_KINDS = option_types(ServerSettings)
SettingFlags: Any = make_dataclass(
    "SettingFlags", [_flag(option, _KINDS[name]) for name, option in _OWN.items()], frozen=True
)


def _take_defaults(ctx: Any, path: Path | None) -> Path | None:
    """The file's settings become the defaults of their flags."""
    if path is not None:
        from mtad import methods

        given = read_settings(path)
        if "method" in given:
            given["method"] = methods.name_for(type(given["method"]))
        ctx.default_map = {FLAGS.get(name, name): value for name, value in given.items()}
    return path


@dataclass(frozen=True)
class ServeFlags(RayFlags, DebugFlag, MethodFlags, ModelFlags, SettingFlags):  # type: ignore[misc]
    """What the user asked of `mtad serve`; the help texts say what each field means."""

    config: Annotated[
        Path | None,
        flag(
            panel="Server",
            exists=True,
            dir_okay=False,
            callback=_take_defaults,
            is_eager=True,
            help="TOML file with the tables server, limits, models and method. Flags win over it; "
            "a --method other than the file's drops its options.",
        ),
    ] = None


def run(flags: ServeFlags) -> None:
    """Serve what the flags ask for, until a signal comes."""
    settings = settings_of(flags)
    try:
        from mtad.cli.fleet import server_of

        serve = server_of(flags)
    except ModuleNotFoundError as error:
        if error.name in ("fastapi", "prometheus_client", "pydantic", "starlette", "uvicorn"):
            raise MtadError(f"{error.name} is missing; run: pip install 'mtad[serve]'") from error
        raise
    serve(settings)


def settings_of(flags: ServeFlags) -> ServerSettings:
    """The server's settings.

    Raises:
        ValueError: a value is impossible, or the method's options are wrong.
    """
    names = [field.name for field in fields(ServerSettings)]
    given = {name: getattr(flags, FLAGS.get(name, name)) for name in names}
    lists = {name: tuple(given[name] or ()) for name, flag in FLAGS.items() if flag != name}
    return ServerSettings(**given | lists | {"method": _method(flags)})


def _method(flags: ServeFlags) -> "Method":
    """The method with its options: those of the file, then those of the flags."""
    from mtad.cli.options import with_flags

    base = read_settings(flags.config).get("method") if flags.config else None
    return with_flags(flags, base)

"""Every flag of `mtad serve`, as the fields of one frozen dataclass, and the server's settings.

Imports nothing heavy: it is read for `mtad --help`.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from inspect import Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer

from mtad.cli.settings import Dtype, Settings
from mtad.errors import MtadError

if TYPE_CHECKING:
    from mtad.server.settings import ServerSettings
    from mtad.speculative.method import Method


def _server(*names: str, **options: Any) -> Any:
    return typer.Option(*names, rich_help_panel="Server", **options)


def _limits(*names: str, **options: Any) -> Any:
    return typer.Option(*names, rich_help_panel="Limits", **options)


def _logs(*names: str, **options: Any) -> Any:
    return typer.Option(*names, rich_help_panel="Logs and traces", **options)


def _ray(*names: str, **options: Any) -> Any:
    return typer.Option(*names, rich_help_panel="Ray", **options)


def _take_defaults(ctx: Any, path: Path | None) -> Path | None:
    """The file's settings become the defaults of their flags."""
    if path is not None:
        given = _read(path)
        if "method" in given:
            given["method"] = _name_of(type(given["method"]))
        ctx.default_map = {_FLAGS.get(name, name): value for name, value in given.items()}
    return path


def _read(path: Path) -> dict[str, Any]:
    """The settings in a file; its method may be a module in the working directory too."""
    from mtad.server.settings import read_settings

    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    return read_settings(path)


def _name_of(cls: "type[Method]") -> str:
    """What `--method` would have to be for this method."""
    from mtad import methods

    return cls.name if cls.name in methods.names() else cls.__module__


_FLAGS = {
    "cors_origins": "cors_origin",
    "allowed_hosts": "allowed_host",
    "allowed_methods": "allowed_method",
}
"""Settings that are lists, and the flag that gives one entry."""


@dataclass(frozen=True)
class ServeFlags:
    """What the user asked of `mtad serve`; the help texts say what each field means."""

    config: Annotated[
        Path | None,
        _server(
            exists=True,
            dir_okay=False,
            callback=_take_defaults,
            is_eager=True,
            help="TOML file with the tables server, limits, models and method. Flags win over it; "
            "a --method other than the file's drops its options.",
        ),
    ] = None
    host: Annotated[str, _server(help="Where to listen; 0.0.0.0 for every network.")] = "127.0.0.1"
    port: Annotated[int, _server(min=0, max=65535, help="0 takes a free one.")] = 8000
    api_key_file: Annotated[
        Path | None,
        _server(
            exists=True,
            dir_okay=False,
            help="One name:key or key per line. Keys may also be in MTAD_API_KEYS, with commas.",
        ),
    ] = None
    served_model_name: Annotated[
        str | None, _server(help="What clients call the model; without it the target's name.")
    ] = None
    cors_origin: Annotated[
        list[str] | None,
        _server(metavar="URL", help="Web pages of this origin may ask; may be repeated."),
    ] = None
    allowed_host: Annotated[
        list[str] | None,
        _server(metavar="NAME", help="A host name that requests may use; may be repeated."),
    ] = None
    playground: Annotated[bool, _server(help="Serve the page at /.")] = True
    metrics: Annotated[bool, _server(help="Serve Prometheus' figures at /metrics.")] = True
    shutdown_s: Annotated[
        float, _server(metavar="SECONDS", help="Time to finish requests after the first signal.")
    ] = 30.0

    max_rows: Annotated[int, _limits(help="Texts decoded at once.")] = 32
    cache_slots: Annotated[
        int | None, _limits(help="Tokens in the caches; without it what --max-rows needs.")
    ] = None
    max_queue: Annotated[int, _limits(help="Texts that wait; beyond it the answer is 429.")] = 256
    max_concurrent_per_key: Annotated[int | None, _limits(help="Requests of one key.")] = None
    max_n: Annotated[int, _limits(help="Choices of one request.")] = 8
    max_prompt_tokens: Annotated[int | None, _limits(help="Of one prompt.")] = None
    max_new_tokens: Annotated[
        int, _limits(help="Of one choice, and the budget of requests that name none.")
    ] = 1024
    max_nodes: Annotated[int, _limits(help="Nodes of a request's token tree.")] = 512
    allowed_method: Annotated[
        list[str] | None,
        _limits(metavar="NAME", help="A method that requests may use; may be repeated."),
    ] = None
    max_body_bytes: Annotated[int, _limits(help="Of one request.")] = 1_000_000
    max_header_bytes: Annotated[int, _limits(help="Of address and headers together.")] = 16_384
    body_timeout_s: Annotated[
        float, _limits(metavar="SECONDS", help="For the body of a request to arrive.")
    ] = 10.0
    timeout_s: Annotated[
        float, _limits(metavar="SECONDS", help="Of a request that names no time.")
    ] = 600.0
    max_timeout_s: Annotated[
        float, _limits(metavar="SECONDS", help="That a request may ask for.")
    ] = 3600.0

    target_model: str | None = None
    draft_model: str | None = None
    dtype: Dtype = "auto"
    draft_dtype: Dtype | None = None
    device: str = "auto"
    draft_device: str | None = None
    device_map: str | None = None
    trust_vocabulary: bool = False

    method: str = "mtad"
    option: list[str] | None = None
    num_draft_tokens: str | None = None
    beam_width: str | None = None
    accept_threshold: str | None = None
    k_config: str | None = None

    log_format: Annotated[
        Literal["json", "text"], _logs(help="Of the line that each request gets on stderr.")
    ] = "json"
    log_prompts: Annotated[bool, _logs(help="Log prompts and outputs too.")] = False
    trace: Annotated[
        Path | None, _logs(dir_okay=False, help="JSON lines: every iteration of every request.")
    ] = None
    allow_trace: Annotated[bool, _logs(help="Requests may ask for their own trace.")] = True
    debug: bool = False

    ray: Annotated[bool, _ray("--ray", help="Serve on a Ray cluster (needs mtad[ray]).")] = False
    ray_address: Annotated[
        str | None,
        _ray(
            help="Of the cluster; without it one that runs here, else a new one; local: a new one."
        ),
    ] = None
    replicas: Annotated[int | None, _ray(min=1, help="Pairs of models, or the fewest of them.")] = (
        None
    )
    max_replicas: Annotated[
        int | None, _ray(min=1, help="The most, when their queues grow; else --replicas.")
    ] = None
    replica_cpus: Annotated[float | None, _ray(help="Cores that a replica takes.")] = None
    replica_gpus: Annotated[float | None, _ray(help="GPUs that a replica takes.")] = None


_SHARED = (
    "target_model draft_model dtype draft_dtype device draft_device device_map trust_vocabulary "
    "method option num_draft_tokens beam_width accept_threshold k_config debug"
).split()


def _share_flags(names: Sequence[str]) -> None:
    """Give these fields the very flags of `mtad generate`, help texts and all."""
    hints = get_type_hints(Settings, include_extras=True)
    ServeFlags.__annotations__.update({name: hints[name] for name in names})
    parameters = signature(ServeFlags).parameters.values()
    shared = [p.replace(annotation=hints[p.name]) if p.name in names else p for p in parameters]
    setattr(ServeFlags, "__signature__", Signature(shared))  # noqa: B010, mypy knows no such name


_share_flags(_SHARED)


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


def settings_of(flags: ServeFlags) -> "ServerSettings":
    """The server's settings.

    Raises:
        ValueError: a value is impossible, or the method's options are wrong.
    """
    from mtad.server.settings import ServerSettings

    given = {f.name: getattr(flags, _FLAGS.get(f.name, f.name)) for f in fields(ServerSettings)}
    for name in _FLAGS:
        given[name] = tuple(given[name] or ())
    return ServerSettings(**given | {"method": _method(flags)})


def _method(flags: ServeFlags) -> "Method":
    """The method with its options: those of the file, then those of the flags."""
    from mtad.cli.options import make_method

    names = ("method", "num_draft_tokens", "beam_width", "accept_threshold", "k_config")
    given = {name: getattr(flags, name) for name in names}
    own = flags.option or []
    taken = {text.partition("=")[0].strip().replace("-", "_") for text in own}
    taken |= {name for name in names[1:] if given[name] is not None}
    of_file = [f"{name}={value}" for name, value in _file_options(flags) if name not in taken]
    return make_method(Settings(prompt="", option=[*of_file, *own], **given))


def _file_options(flags: ServeFlags) -> Iterator[tuple[str, str]]:
    """The options that the file gives to the method, as they are typed after -o."""
    if flags.config is None:
        return
    from mtad import methods

    method = _read(flags.config).get("method")
    if method is None or type(method) is not methods.find(flags.method):
        return
    for option in fields(method):
        value = getattr(method, option.name)
        yield option.name, ",".join(map(str, value)) if isinstance(value, tuple) else str(value)

"""Every flag of `mtad serve`, made from the server's settings, and what the command does.

Imports nothing heavy: it is read for `mtad --help`.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

from mtad.cli.flags import (
    DebugFlag,
    MethodFlags,
    ModelFlags,
    config_flag,
    flag,
    flag_group,
    spelled,
)
from mtad.errors import MtadError
from mtad.server.settings import SECTIONS, ServerSettings, read_settings

PACKAGES = ("fastapi", "h11", "prometheus-client", "pydantic", "starlette", "uvicorn")
"""What the extra `serve` installs."""

_LOGS = (
    *("log_format", "log_file", "log_prompts", "trace", "otlp_traces_endpoint", "allow_trace"),
)
_ray = partial(flag, panel="Ray")

_SERVER = SECTIONS["server"]
SettingFlags: Any = flag_group(
    "SettingFlags",
    {
        "Server": [option for name, option in _SERVER.items() if name not in _LOGS],
        "Logs and traces": [_SERVER[name] for name in _LOGS],
        "Limits": SECTIONS["limits"].values(),
    },
)


@dataclass(frozen=True)
class RayFlags:
    """Whether to serve on a cluster, and on how much of it."""

    ray: Annotated[bool, _ray("--ray", help="Serve on a Ray cluster (needs the extra ray).")] = (
        False
    )
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


_OF_FLEET = ("replicas", "max_replicas", "replica_cpus", "replica_gpus")


@dataclass(frozen=True)
class ServeFlags(RayFlags, DebugFlag, MethodFlags, ModelFlags, SettingFlags):  # type: ignore[misc]
    """What the user asked of `mtad serve`; the help texts say what each field means."""

    read: ClassVar = staticmethod(read_settings)
    config: Annotated[
        Path | None,
        config_flag(read_settings, "Server", " with the tables server, limits, models and method"),
    ] = None


def run(flags: ServeFlags) -> None:
    """Serve what the flags ask for, until a signal comes."""
    with _ignored_hangups():
        settings = settings_of(flags)
        try:
            serve = _server_of(flags)
        except ModuleNotFoundError as error:
            name = (error.name or "").replace("_", "-")
            if name in PACKAGES:
                packages = " ".join(PACKAGES)
                raise MtadError(f"{name} is missing; run: pip install {packages}") from error
            raise
        serve(settings)


@contextmanager
def _ignored_hangups() -> Iterator[None]:
    """SIGHUP ends nothing, also before the server takes it, which is after its imports."""
    number = getattr(signal, "SIGHUP", None)  # Windows has none
    if number is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, before)


def settings_of(flags: ServeFlags) -> ServerSettings:
    """The server's settings.

    Raises:
        ValueError: a value is impossible, or the method's options are wrong.
    """
    from mtad.cli.options import make_method

    settings = [option for keys in SECTIONS.values() for option in keys.values()]
    given = {option.name: option.typed(getattr(flags, option.name)) for option in settings}
    return ServerSettings(**given, method=make_method(flags))


def _server_of(flags: RayFlags) -> Callable[[ServerSettings], None]:
    """What serves until a signal comes, in this process or on a Ray cluster.

    Raises:
        ValueError: a flag of replicas without --ray, or impossible numbers.
    """
    given = {n: v for n in _OF_FLEET if (v := getattr(flags, n)) is not None}
    if flags.ray:
        from mtad.server.ray.deploy import Fleet, serve_on_ray

        return partial(serve_on_ray, fleet=Fleet(**given), address=flags.ray_address)
    for name in ("ray_address", *_OF_FLEET):
        if (value := getattr(flags, name)) is not None:
            raise ValueError(f"{spelled(name)} is {value!r}; it needs --ray")
    from mtad.server.run import serve

    return serve

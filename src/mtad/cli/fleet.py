"""Where `mtad serve` serves: in this process, or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mtad.cli.serve import ServeFlags
    from mtad.server.settings import ServerSettings

_FLAGS = ("ray_address", "replicas", "max_replicas", "replica_cpus", "replica_gpus")


def server_of(flags: ServeFlags) -> Callable[[ServerSettings], None]:
    """What serves until a signal comes.

    Raises:
        ValueError: a flag of replicas without --ray, or impossible numbers.
    """
    if flags.ray:
        return _on_ray(flags)
    for name in _FLAGS:
        if getattr(flags, name) is not None:
            flag = f"--{name.replace('_', '-')}"
            raise ValueError(f"{flag} is {getattr(flags, name)!r}; it needs --ray")
    from mtad.server.run import serve

    return serve


def _on_ray(flags: ServeFlags) -> Callable[[ServerSettings], None]:
    from mtad.server.ops.on_ray import Fleet, serve_on_ray

    fleet = Fleet(
        replicas=1 if flags.replicas is None else flags.replicas,
        max_replicas=flags.max_replicas,
        num_cpus=1.0 if flags.replica_cpus is None else flags.replica_cpus,
        num_gpus=flags.replica_gpus,
    )
    return lambda settings: serve_on_ray(settings, fleet, flags.ray_address)

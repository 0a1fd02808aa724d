"""Where `mtad serve` serves: in this process, or on a Ray cluster."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from mtad.cli.flags import flag

if TYPE_CHECKING:
    from mtad.server.settings import ServerSettings


def _ray(*names: str, **options: Any) -> Any:
    return flag(*names, panel="Ray", **options)


@dataclass(frozen=True)
class RayFlags:
    """Whether to serve on a cluster, and on how much of it."""

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


_FLAGS = ("ray_address", "replicas", "max_replicas", "replica_cpus", "replica_gpus")


def server_of(flags: RayFlags) -> "Callable[[ServerSettings], None]":
    """What serves until a signal comes.

    Raises:
        ValueError: a flag of replicas without --ray, or impossible numbers.
    """
    if flags.ray:
        return _on_ray(flags)
    for name in _FLAGS:
        if getattr(flags, name) is not None:
            name_of_flag = f"--{name.replace('_', '-')}"
            raise ValueError(f"{name_of_flag} is {getattr(flags, name)!r}; it needs --ray")
    from mtad.server.run import serve

    return serve


def _on_ray(flags: RayFlags) -> "Callable[[ServerSettings], None]":
    from mtad.server.ray.deploy import Fleet, serve_on_ray

    fleet = Fleet(
        replicas=1 if flags.replicas is None else flags.replicas,
        max_replicas=flags.max_replicas,
        num_cpus=1.0 if flags.replica_cpus is None else flags.replica_cpus,
        num_gpus=flags.replica_gpus,
    )
    return lambda settings: serve_on_ray(settings, fleet, flags.ray_address)

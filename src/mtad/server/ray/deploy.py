"""Deploys the server on a Ray cluster and ends it: Ray Serve in front of replicas.

Ray Serve has the port, routes each request to a replica, and starts, checks and ends replicas. What
a request means, who may send it and how much is decided by the application in each replica.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from types import FrameType
from typing import Annotated, Any, TypeAlias

from annotated_types import Ge

from mtad.cluster import ClusterError, connected, find_ray
from mtad.core.options import Count
from mtad.core.schema import check_fields
from mtad.errors import first_line
from mtad.server.api.service import served_name
from mtad.server.http.keys import Keys, find_keys
from mtad.server.ops.hangup import hangups
from mtad.server.ops.sockets import listen, require_no_socket, url_of
from mtad.server.ray.replica import NAME, Replica
from mtad.server.run import FLUSH_S, say
from mtad.server.settings import ServerSettings

DRAIN_CALL_S = 10.0
"""Seconds in which replicas have to answer that they begin to finish."""
SPARE_REQUESTS = 64
"""Requests that a replica takes beyond its queue: they are cheap, or are refused by it."""

QUIET = {"log_level": "WARNING", "enable_access_log": False}
"""Ray Serve's own logs; every request has its line from the application."""


_Share: TypeAlias = Annotated[float, Ge(0)]


@dataclass(frozen=True)
class Fleet:
    """How many replicas there are, and what each one gets.

    Attributes:
        replicas: how many; the least if there may be more.
        max_replicas: None for no more than `replicas`.
        replica_cpus: processors, and threads, of a replica.
        replica_gpus: GPUs of a replica; None for one if the cluster has any and the models may use
            it.
    """

    replicas: Count = 1
    max_replicas: Count | None = None
    replica_cpus: _Share = 1.0
    replica_gpus: _Share | None = None

    def __post_init__(self) -> None:
        """Refuse impossible numbers."""
        check_fields(self)
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError(
                f"max_replicas is {self.max_replicas}; it must be at least replicas, which is "
                f"{self.replicas}"
            )


def serve_on_ray(settings: ServerSettings, fleet: Fleet, address: str | None = None) -> None:
    """Serve on a Ray cluster until a signal comes.

    Args:
        settings: of the server; the first machine of the cluster listens.
        fleet: how many replicas.
        address: of the cluster, as for `connected`.

    Raises:
        ClusterError: Ray is missing, out of reach, or serves something else.
        AddressError: the port is taken, or the host is none of this machine's.
        ValueError, MtadError: the keys, or the models of a replica, are not as they must be, or a
            setting is one of a server that listens itself.
    """
    require_no_socket(settings, "Ray Serve has the port: put a proxy in front of it")
    keys = find_keys(settings, say)
    # replicas see for themselves that a file was moved away
    with hangups(), connected(address), deployed(settings, fleet, keys) as url:
        print(f"mtad serves {served_name(settings)} on {url}", flush=True)
        _wait_for_signal()


def _wait_for_signal() -> None:
    """Return when the first signal comes; the second one ends the process at once."""
    asked = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            say("stopped at once")
            os._exit(0)
        say("shutting down; a second signal stops at once")
        asked.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    asked.wait()


@contextmanager
def deployed(settings: ServerSettings, fleet: Fleet, keys: Keys | None = None) -> Iterator[str]:
    """The address of a server on the cluster that Ray is connected to; ended afterwards.

    At the end every request is answered, or fails in the server's own words, within `shutdown_s`.

    Args:
        settings: of the server.
        fleet: how many replicas.
        keys: that open it; none if None.

    Raises:
        ClusterError: something else is served on the cluster.
    """
    ray, serve = find_ray(), find_ray("ray.serve")
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    if serve.status().applications:
        names = ", ".join(serve.status().applications)
        raise ClusterError(
            f"Ray Serve already serves {names} on this cluster; end it (serve shutdown), or give "
            "another --ray-address"
        )
    settings = replace(settings, port=_free_port(settings))
    serve.start(
        proxy_location="HeadOnly",
        http_options={"host": settings.host, "port": settings.port},
        logging_config=QUIET,
    )
    try:
        deployment = serve.deployment(serve.ingress()(Replica))
        replicas = deployment.options(**_options(ray, settings, fleet))
        _run(serve, replicas.bind(settings, keys or Keys()))
        yield url_of(settings.host, settings.port)
    finally:
        _drain(serve)
        serve.shutdown()


def _run(serve: Any, application: Any) -> None:
    """Wait until the replicas are ready.

    Raises:
        ClusterError: one could not be made.
    """
    try:
        serve.run(application, name=NAME)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).split("\n")]
        reasons = [line for line in lines if _REASON.match(line)]
        reason = reasons[-1] if reasons else first_line(error)
        raise ClusterError(f"a replica could not be made: {reason}") from error


_REASON = re.compile(r"[\w.]+(Error|Exception): ")
"""The line of a traceback that says what it was about."""


def _options(ray: Any, settings: ServerSettings, fleet: Fleet) -> dict[str, Any]:
    """How many replicas there are, what they get, and how they are watched and ended."""
    size: dict[str, Any] = {"num_replicas": fleet.replicas}
    if fleet.max_replicas is not None:
        size = {
            "num_replicas": "auto",
            "autoscaling_config": {
                "min_replicas": fleet.replicas,
                "max_replicas": fleet.max_replicas,
                "target_ongoing_requests": float(settings.max_rows),
            },
        }
    gpus = fleet.replica_gpus
    if gpus is None:
        has_any = ray.cluster_resources().get("GPU", 0) >= 1
        gpus = 1 if has_any and settings.device != "cpu" else 0
    return {
        **size,
        "name": NAME,
        "ray_actor_options": {"num_cpus": fleet.replica_cpus, "num_gpus": gpus},
        # what does not fit the queue is refused by the application, with its own words
        "max_ongoing_requests": settings.max_rows + settings.max_queue + SPARE_REQUESTS,
        "max_constructor_retry_count": 1,
        "logging_config": QUIET,
        "health_check_period_s": 5.0,
        "health_check_timeout_s": 30.0,
        "graceful_shutdown_wait_loop_s": 0.5,
        "graceful_shutdown_timeout_s": settings.shutdown_s + FLUSH_S,
    }


def _drain(serve: Any) -> None:
    """Let the replicas finish what runs, and wait until they are gone."""
    try:
        draining = serve.get_app_handle(NAME).broadcast("drain")
        draining.results(timeout_s=DRAIN_CALL_S, return_exceptions=True)
    except Exception as error:  # Ray Serve has many; the replicas are ended all the same
        say(f"Warning: the replicas could not be asked to finish: {first_line(error)}")
    while NAME in serve.status().applications:
        with suppress(TimeoutError):  # it waits for a minute at most
            serve.delete(NAME)


def _free_port(settings: ServerSettings) -> int:
    """The port, a free one for 0.

    Raises:
        AddressError: it is taken.
    """
    with closing(listen(settings.host, settings.port)) as sock:
        return int(sock.getsockname()[1])

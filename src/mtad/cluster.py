"""Connects to a Ray cluster, for the benchmark and the server.

Knows neither of them. Ray is imported when it is needed.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mtad.errors import MtadError, first_line

OBJECT_STORE_BYTES = 200_000_000
"""Of a Ray cluster that is started here: jobs and rows are small."""


class ClusterError(MtadError):
    """Ray is not installed, cannot be reached, has no machine that fits, or lost them all."""


def find_ray(module: str = "ray") -> Any:
    """A module of Ray, with its usage reports turned off.

    Raises:
        ClusterError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ClusterError(
            f"--ray needs Ray ({error}); install it: pip install 'ray[serve]'"
        ) from error


@contextmanager
def connected(address: str | None = None) -> Iterator[Any]:
    """Ray, connected to the cluster at the address, to one that runs here, or to a new one.

    A new one has this machine alone and no dashboard, and ends with the program.

    Args:
        address: as `ray.init` takes it; None for $RAY_ADDRESS, then a cluster that was started on
            this machine, then a new one; "local" for a new one.

    Raises:
        ClusterError: there is no cluster at the address.
    """
    ray = find_ray()
    if ray.is_initialized():
        yield ray
        return
    _connect(ray, address)
    try:
        yield ray
    finally:
        ray.shutdown()


def _connect(ray: Any, address: str | None) -> None:
    options = {"log_to_driver": False, "logging_level": "error"}
    if address != "local":
        try:
            ray.init(address=address or "auto", **options)
            return
        except ConnectionError as error:
            if where := address or os.environ.get("RAY_ADDRESS"):
                raise ClusterError(
                    f"no Ray cluster at {where}: {first_line(error)}; start one with `ray start`"
                ) from error
    own = {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    ray.init(address="local", **own, **options)

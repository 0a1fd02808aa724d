"""A Ray cluster of two small machines within this one, and their sudden end."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
STORE_BYTES = 100_000_000

RAY_WARNINGS = [
    # of `ray.init`, about what another release will do
    "ignore:Tip. In future versions of Ray:FutureWarning",
    # of `import ray.serve`, about its own models
    "ignore:Using extra keyword arguments on `Field`:pydantic.warnings.PydanticDeprecatedSince20",
]


@contextlib.contextmanager
def two_machines(num_cpus: int = 1) -> Iterator[tuple[Any, Any]]:
    """The cluster, connected to, and its second machine; nothing of it is left afterwards."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    known = {process.pid for process in psutil.process_iter()}
    size = {"num_cpus": num_cpus, "object_store_memory": STORE_BYTES, "include_dashboard": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # Ray leaves its log files open
        cluster = Cluster(initialize_head=True, head_node_args=size)
        try:
            second = cluster.add_node(**size)
            ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
            yield cluster, second
        finally:
            ray.shutdown()
            cluster.shutdown()
            _end_all_but(known)


def pull_the_plug(node: Any) -> None:
    """End all processes of a machine at once, as when its power fails."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    for process in [raylet, *raylet.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _end_all_but(known: set[int]) -> None:
    """End what this process started since and has not ended yet."""
    for process in psutil.Process().children(recursive=True):
        if process.pid not in known:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

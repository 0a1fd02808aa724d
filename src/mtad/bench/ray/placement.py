"""Where on a Ray cluster the workers of a recipe run.

Starts nothing.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtad.bench.plan import Recipe
from mtad.cluster import ClusterError
from mtad.pairs import DEMO, PAIRS


def portable(recipe: Recipe) -> Recipe:
    """The recipe with the models' folders in full: a worker has another working folder.

    Raises:
        ValueError: devices have numbers; every worker sees its own GPU alone.
    """
    for name in ("device", "draft_device"):
        value = getattr(recipe.pair, name)
        if value is not None and ":" in value:
            raise ValueError(
                f"pair.{name} is {value!r}; with --ray each worker sees its own GPU alone, so it "
                f"must be {value.partition(':')[0]!r} or 'auto'"
            )
    target, draft = (_in_full(getattr(recipe.pair, name)) for name in ("target", "draft"))
    pair = dataclasses.replace(recipe.pair, target=target or DEMO, draft=draft)
    return dataclasses.replace(recipe, pair=pair)


def _in_full(model: str | None) -> str | None:
    """A folder from the root on; names of models that are no folder stay as they are."""
    is_folder = model is not None and model not in PAIRS and Path(model).exists()
    return str(Path(model).resolve()) if model is not None and is_folder else model


@dataclass(frozen=True, eq=False)
class Placement:
    """Where a worker runs.

    Attributes:
        node: Ray's id of the machine.
        address: of the machine, for messages.
        num_gpus: GPUs of the worker.
        num_neighbours: other workers on the same machine.
    """

    node: str
    address: str
    num_gpus: int
    num_neighbours: int


def placements(ray: Any, recipe: Recipe) -> list[Placement]:
    """One worker per GPU, or per machine where the models do not run on GPUs."""
    found: list[tuple[str, str, int]] = []
    for node in ray.nodes():
        gpus = 0 if recipe.pair.device == "cpu" else int(node["Resources"].get("GPU", 0))
        if not node["Alive"] or (recipe.pair.device == "cuda" and not gpus):
            continue
        place = (node["NodeID"], node["NodeManagerAddress"])
        if gpus and recipe.pair.device_map is None:
            found += [(*place, 1)] * gpus
        elif gpus or node["Resources"].get("CPU", 0) >= num_cpus(recipe):
            found.append((*place, gpus))
    if not found:
        wanted = "a GPU" if recipe.pair.device == "cuda" else f"{num_cpus(recipe)} CPUs or a GPU"
        raise ClusterError(f"no machine of the Ray cluster has {wanted}; see `ray status`")
    hosts = [address for _, address, _ in found]
    return [Placement(*one, hosts.count(one[1]) - 1) for one in found]


def num_cpus(recipe: Recipe) -> int:
    """CPUs of a worker that has no GPU, and its threads."""
    return max(1, recipe.plan.num_threads)

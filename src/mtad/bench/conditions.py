"""On what a run ran: models, versions, machine; each row of samples names these by an id."""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import os
import platform
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import mtad
from mtad.api.pair import ModelPair
from mtad.bench.plan import PairSpec
from mtad.measure.nvml import gpu_facts
from mtad.model.drafter import Draft
from mtad.runtime.linear.kernel import Kernel, beginning_of

_PACKAGES = ("transformers", "tokenizers", "numpy", "nvidia-ml-py", "zentorch")
_VOLATILE = ("id", "first_used")


def conditions(pair: ModelPair, spec: PairSpec, more: dict[str, Any]) -> dict[str, Any]:
    """Everything that the numbers depend on and the recipe does not say, with its id.

    Args:
        pair: the loaded models.
        spec: where they came from.
        more: what the caller adds, such as the meter's source.
    """
    facts = {
        "commit": _commit(),
        "mtad": mtad.__version__,
        "python": platform.python_version(),
        "versions": _versions(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "num_cpus": num_cpus(),
        "num_threads": torch.get_num_threads(),
        "device": _device(pair.models.target),
        "draft_device": None if pair.models.draft is None else _device(pair.models.draft),
        "target": _model(pair.models.target, spec.target),
        "draft": _model(pair.models.draft, spec.draft or spec.target),
        "target_weights": pair.models.target_weights,
        "draft_weights": pair.models.draft_weights,
        "target_kernels": _kernels(pair.models.target),
        "draft_kernels": _kernels(pair.models.draft),
        "model_fingerprint": fingerprint(pair),
        **gpu_facts([m.device for m in (pair.models.target, pair.models.draft) if m is not None]),
        **more,
    }
    return facts | {"id": _id(facts), "first_used": _now()}


def fingerprint(pair: ModelPair) -> str:
    """A short hash of some numbers of every weight of both models: another pair has another one."""
    digest = hashlib.sha256()
    for model in (pair.models.target, pair.models.draft):
        for name, shape, numbers in [] if model is None else _weights(model):
            digest.update(f"{name} {shape}".encode())
            digest.update(str(numbers.float().cpu().tolist()).encode())
    return digest.hexdigest()[:12]


def _weights(model: Draft) -> Iterator[tuple[str, tuple[int, ...], Tensor]]:
    """Name, shape and first 16 numbers of each weight, packed or not; a shared one comes once."""
    seen: set[int] = set()
    for path, module in model.named_modules():
        if isinstance(module, Kernel) and not _is_copy(model, module):
            shape = (module.out_features, module.in_features)
            yield f"{path}.weight", shape, beginning_of(module, 16)
        for name, weight in module.named_parameters(path, recurse=False):
            if id(weight) not in seen:
                seen.add(id(weight))
                yield name, tuple(weight.shape), weight.flatten()[:16]


def _is_copy(model: Draft, layer: Kernel) -> bool:
    """Whether a packed layer is the output layer of a model whose embedding has its weights."""
    whole: Any = model
    is_tied = getattr(model.config, "tie_word_embeddings", False)
    return is_tied and whole.get_output_embeddings() is layer


def _kernels(model: Draft | None) -> list[str]:
    """What multiplies packed weights; two backends of one form differ in speed and rounding."""
    modules = [] if model is None else model.modules()
    return sorted({module.label for module in modules if isinstance(module, Kernel)})


def num_cpus() -> int:
    """Processors that this program may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _id(facts: dict[str, Any]) -> str:
    text = json.dumps({k: v for k, v in facts.items() if k not in _VOLATILE}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _versions() -> dict[str, str]:
    found = {"torch": str(torch.__version__)}  # with the kind of build
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _commit() -> str | None:
    """The commit of mtad's own repository, marked where files were changed; None outside of it."""
    folder = Path(mtad.__file__).parent
    if _git(folder, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None  # installed within somebody else's repository, or in none
    changed = _git(folder, "status", "--porcelain", "--", ".")
    return f"{_git(folder, 'rev-parse', 'HEAD')}{' with changes' if changed else ''}"


def _git(folder: Path, *words: str) -> str | None:
    """What git says; None where it fails."""
    command = ["git", "-C", str(folder), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n")
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _device(model: Draft) -> str:
    device = torch.device(model.device)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _model(model: Draft | None, path: str) -> dict[str, Any] | None:
    if model is None:
        return None
    return {
        "name": Path(path).name if Path(path).exists() else path,
        "num_parameters": sum(math.prod(shape) for _, shape, _ in _weights(model)),
        "dtype": str(model.dtype).removeprefix("torch."),
        "architecture": model.config.model_type,
        "revision": getattr(model.config, "_commit_hash", None),
    }
